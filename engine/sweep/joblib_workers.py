"""Stop the jobs that joblib runs side by side: at a signal they save and end, where joblib would kill them."""

import functools
import logging
import multiprocessing
import os
import signal
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
STOPPED = "stopped"  # what a job returns that was asked to stop, or comes after one in its process


def register() -> None:
    """Have the launcher of the plugin use the functions below."""
    _core.execute_job, _core.launch = execute_job, launch


def launch(launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """Run the jobs; at a signal have the running ones save and end, and wait for them; a second signal ends them at once.

    Raises:
        StopRequested: there was a signal, to the command or to one of its processes.
    """
    received = []

    def stop(number: int, frame) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt  # at which joblib kills its processes
        log.warning("%s: waiting for the jobs to save; a second signal ends them at once", StopRequested(number))
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)

    returned: Sequence[JobReturn] = []
    with handle_stops(stop):
        try:
            returned = usual_launch(launcher, job_overrides, initial_job_idx)
        except (Exception, KeyboardInterrupt):  # of a worker that was still starting
            if not received:
                raise
    if received or any(each.return_value == STOPPED for each in returned):  # or one of the processes was sent a signal
        stopped = StopRequested(received[0] if received else signal.SIGTERM)
        stopped.next_step = resume_advice(STATE.command)
        raise stopped
    return returned


def execute_job(*arguments) -> JobReturn:
    """Run a job in a process of joblib; once it was asked to stop, return at once, so that no other process is killed."""
    if multiprocessing.current_process().name == "MainProcess":  # hydra.launcher.n_jobs=1
        return usual_job(*arguments)
    stop_once()
    end_with_command(os.getppid())
    if not was_asked_to_stop():
        try:
            return usual_job(*arguments)
        except StopRequested:
            pass
    return JobReturn(status=JobStatus.COMPLETED, _return_value=STOPPED)


@functools.cache  # once a process
def end_with_command(parent: int) -> None:
    """Have this process save and end where its command was killed: its jobs would hold up the next one, and have no page."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
