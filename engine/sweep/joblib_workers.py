"""Stop jobs that joblib runs side by side: on a signal they save and end, whereas joblib would kill them."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_joblib_launcher import _core
from hydra_plugins.hydra_joblib_launcher._core import execute_job as usual_job
from hydra_plugins.hydra_joblib_launcher._core import launch as usual_launch

from common.errors import StopRequested
from common.signals import handle_stops, stop_once, was_asked_to_stop
from engine.state import STATE, resume_advice

log = logging.getLogger(__name__)

LOOK_S = 0.5
STOPPED = "stopped"  # return value of a job that was asked to stop, and of later jobs in its process


def register() -> None:
    """Make the plugin's launcher use the functions below."""
    _core.execute_job, _core.launch = execute_job, launch


def launch(launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """Run the jobs; on a signal, let running jobs save and end, and wait for them; a second signal ends them at once.

    Raises:
        StopRequested: the command or one of its processes received a signal.
    """
    received = []

    def stop(number: int, frame) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt  # makes joblib kill its processes
        log.warning("%s: waiting for the jobs to save; a second signal ends them at once", StopRequested(number))
        if sys.platform == "win32":  # its console sends a Ctrl-C to every process, and os.kill would end one at once
            return
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)

    returned: Sequence[JobReturn] = []
    with handle_stops(stop):
        try:
            returned = usual_launch(launcher, job_overrides, initial_job_idx)
        except (Exception, KeyboardInterrupt):  # a worker was still starting
            if not received:
                raise
    if received or any(each.return_value == STOPPED for each in returned):  # or one of the processes received a signal
        stopped = StopRequested(received[0] if received else signal.SIGTERM)
        stopped.next_step = resume_advice(STATE.command)
        raise stopped
    return returned


def execute_job(*arguments) -> JobReturn:
    """Run a job in a joblib process; after a stop, return immediately, so that joblib kills no other process."""
    if multiprocessing.current_process().name == "MainProcess":  # hydra.launcher.n_jobs=1
        return usual_job(*arguments)
    stop_once()
    end_with_command(os.getppid())
    if not was_asked_to_stop():
        with contextlib.suppress(StopRequested):
            return usual_job(*arguments)
    return JobReturn(status=JobStatus.COMPLETED, _return_value=STOPPED)


@functools.cache  # once per process
def end_with_command(parent: int) -> None:
    """Save and end this process if its command is killed: its jobs would block the next command, and get no page."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
