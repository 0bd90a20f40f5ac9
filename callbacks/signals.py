"""What becomes of SIGINT, SIGTERM and SLURM's SIGUSR1 outside of training. Imports no torch."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

from .errors import Stopped

log = logging.getLogger(__name__)


def signals() -> list[int]:
    """Those that ask a run to end, as far as this thread may say what becomes of them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    asking = [signal.SIGINT, signal.SIGTERM]
    if "SLURM_JOB_ID" in os.environ:  # sbatch --signal=USR1@90
        asking.append(signal.SIGUSR1)
    return asking


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Outside of training: a signal raises Stopped."""

    def stop(number: int, frame) -> None:
        raise Stopped(number)

    before: dict[int, Callable | int | None] = {number: signal.signal(number, stop) for number in signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def queue_again() -> None:
    """Asks SLURM to start this job once more."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.warning("SLURM job %s is queued again", job)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("SLURM job %s is not queued again: %s", job, getattr(error, "stderr", "") or error)
