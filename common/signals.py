"""Handle SIGINT, SIGTERM, SIGHUP of a closed terminal and SLURM's SIGUSR1 outside of training."""

import _thread
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

AGAIN_S = 0.05  # seconds until a lost signal is sent again
SCONTROL_S = 60.0  # a busy controller answers late; SLURM allows about this long between the signal and the end
_asked: list[int] | None = None  # signals that the process received since `stop_once`; None: it was not called


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
    """Let this process of a launcher react only to the first signal: the terminal sends one, and the command another."""
    global _asked
    if _asked is None:
        _asked = []
        for number in stop_signals():
            signal.signal(number, lambda number, _: _asked.append(number))  # between two jobs


def is_repeated(number: int) -> bool:
    """Return whether to ignore a signal, since this process has called `stop_once` and was asked to end before."""
    if _asked is None:
        return False
    _asked.append(number)
    return len(_asked) > 1


def was_asked_to_stop() -> bool:
    """Return whether this process has received a signal since `stop_once`."""
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

    This also works if a library between the handler and here replaces it with an error of its own.
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
            if received:  # C++ code, such as matplotlib's, loses an exception that was raised inside it
                raise StopRequested(received[0]) from None
            raise


@contextlib.contextmanager
def repeat_lost_stops() -> Iterator[None]:
    """Repeat a signal that came while an object was finalized, where Python only prints the traceback of an exception."""
    before = sys.unraisablehook

    def repeat(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, StopRequested | KeyboardInterrupt):
            number = getattr(lost.exc_value, "number", signal.SIGINT)
            if hasattr(signal, "pthread_kill"):  # sent to the main thread, to end its waiting
                again = threading.Timer(AGAIN_S, signal.pthread_kill, [threading.main_thread().ident, number])
            else:  # on Windows
                again = threading.Timer(AGAIN_S, _thread.interrupt_main, [number])
            again.daemon = True
            again.start()  # if raised here, it would be lost too
        else:
            before(lost)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def ignore_stops() -> Iterator[None]:
    """Ignore the signals that ask a run to end while its end is being recorded."""
    with handle_stops(signal.SIG_IGN):
        yield


def _stop_behind(error: BaseException) -> StopRequested | None:
    """Return the StopRequested that an error was raised from or while handling; None if there is none."""
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
    # A task of an array is requeued by array and task number, since the last task's SLURM_JOB_ID would mean all of them
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=SCONTROL_S)
        log.warning("SLURM job %s was requeued", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join((getattr(error, "stderr", "") or str(error)).split())
        log.warning("could not requeue SLURM job %s: %s", job, reason)
