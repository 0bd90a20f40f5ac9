"""Handle SIGINT, SIGTERM, SIGHUP of a closed terminal and SLURM's SIGUSR1 outside of training."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from common.errors import StopRequested

log = logging.getLogger(__name__)

AGAIN_S = 0.05
SCONTROL_S = 60.0  # a busy controller answers late; SLURM gives about as much between the signal and the end
_asked: list[int] | None = None  # signals that a process received, as of `stop_once`


def stop_signals() -> list[int]:
    """Return the signals that ask a run to end; none in a thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        return []
    asking = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        asking.append(signal.SIGHUP)
    if "SLURM_JOB_ID" in os.environ:  # sbatch --signal=USR1@90
        asking.append(signal.SIGUSR1)
    return asking


def stop_once() -> None:
    """Let this process of a launcher end at the first signal only: a terminal sends one, and its command passes one on."""
    global _asked
    if _asked is None:
        _asked = []
        for number in stop_signals():
            signal.signal(number, lambda number, _: _asked.append(number))  # between two jobs


def is_repeated(number: int) -> bool:
    """Return whether a signal is to be ignored, since this process, as of `stop_once`, was asked to end before."""
    if _asked is None:
        return False
    _asked.append(number)
    return len(_asked) > 1


def was_asked_to_stop() -> bool:
    """Return whether this process, as of `stop_once`, has received a signal."""
    return bool(_asked)


@contextlib.contextmanager
def handle_stops(handler: Callable | int) -> Iterator[None]:
    """Use another handler for the signals that ask a run to end."""
    before: dict[int, Callable | int | None] = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


@contextlib.contextmanager
def stop_immediately() -> Iterator[None]:
    """Raise StopRequested on a signal; training has its own handler, callbacks/graceful_shutdown.py.

    Also where a library that it came through has raised an error of its own in its place.
    """
    received: list[int] = []

    def stop(number: int, frame) -> None:
        if not is_repeated(number):
            received.append(number)
            raise StopRequested(number)

    with handle_stops(stop):
        try:
            if _asked:  # between two jobs
                raise StopRequested(_asked[0])
            yield
        except Exception as error:
            if stopped := _stop_behind(error):
                raise stopped from None
            if received:  # C++, as that of matplotlib, forgets what was raised in it
                raise StopRequested(received[0]) from None
            raise


@contextlib.contextmanager
def repeat_lost_stops() -> Iterator[None]:
    """Raise a signal again that came while an object was removed: of what is raised there Python only prints a traceback."""
    before = sys.unraisablehook

    def repeat(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, StopRequested | KeyboardInterrupt):
            number = getattr(lost.exc_value, "number", signal.SIGINT)
            # To the main thread, whose waiting it ends
            again = threading.Timer(AGAIN_S, signal.pthread_kill, [threading.main_thread().ident, number])
            again.daemon = True
            again.start()  # here it would be lost as well
        else:
            before(lost)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def ignore_stops() -> Iterator[None]:
    """Ignore the signals that ask a run to end, while how it has ended is written."""
    with handle_stops(signal.SIG_IGN):
        yield


def _stop_behind(error: BaseException) -> StopRequested | None:
    """Return the stop during whose handling an error was raised."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, StopRequested):
            return each
        if each is not None and not any(each is other for other in seen):
            seen.append(each)
            waiting += [each.__cause__, each.__context__]
    return None


def slurm_requeue() -> None:
    """Ask SLURM to start this job again, ignoring further signals meanwhile."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # A task of an array has the array's number too; of the last one SLURM_JOB_ID would mean all of them
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=SCONTROL_S)
        log.warning("SLURM job %s was requeued", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join((getattr(error, "stderr", "") or str(error)).split())
        log.warning("could not requeue SLURM job %s: %s", job, reason)
