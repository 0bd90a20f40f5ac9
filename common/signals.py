"""What becomes of SIGINT, SIGTERM and SLURM's SIGUSR1 outside of training. Imports no torch."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

from common.errors import StopRequested

log = logging.getLogger(__name__)

SCONTROL_S = 60.0  # a busy controller answers late; the time between the signal and the end is of this size


def stop_signals() -> list[int]:
    """Those that ask a run to end, as far as this thread may say what becomes of them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    asking = [signal.SIGINT, signal.SIGTERM]
    if "SLURM_JOB_ID" in os.environ:  # sbatch --signal=USR1@90
        asking.append(signal.SIGUSR1)
    return asking


@contextlib.contextmanager
def stop_immediately() -> Iterator[None]:
    """Outside of training: a signal raises Stopped."""

    def stop(number: int, frame) -> None:
        raise StopRequested(number)

    before: dict[int, Callable | int | None] = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def slurm_requeue() -> None:
    """Asks SLURM to start this job once more. Further signals that it sends meanwhile are nothing new."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # One of an array has the array's number too; in the last one SLURM_JOB_ID would mean all of them
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=SCONTROL_S)
        log.warning("SLURM job %s is queued again", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join((getattr(error, "stderr", "") or str(error)).split())
        log.warning("SLURM job %s is not queued again: %s", job, reason)
