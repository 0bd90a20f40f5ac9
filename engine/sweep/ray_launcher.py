"""Hydra's launcher for Ray: run the jobs of a sweep, or the workers of smallest.py, on a machine or a cluster."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from common.errors import StopRequested, UserError
from common.signals import handle_stops
from common.targets import check_installed
from common.text import plural
from engine.state import STATE, resume_advice
from engine.sweep.lost_jobs import compose_job, note_lost

log = logging.getLogger(__name__)

NAME = "hydra_plugins.ray_launcher.RayLauncher"  # Hydra accepts launchers only from this package
CONNECT_S = 10.0
SAVING_S = 60.0  # time for stopped jobs to save
LAST_LINES_S = 1.0  # time until the jobs' last lines are on this screen
TOKEN_LOG = "ray._private.authentication.authentication_token_setup"  # warns of a token in use, the default
# Ray's environment variables: show all lines of jobs, without color; send nothing to its makers; retry a job that runs out of
# memory no more often than a lost one (by default, forever)
ENVIRONMENT = {
    "RAY_COLOR_PREFIX": "0", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": "3",
}  # fmt: skip


def register() -> None:
    """Make the launcher known to Hydra.

    Raises:
        UserError: Ray is not installed.
    """
    check_installed("ray", "hydra/launcher=ray", "ray")
    Plugins.instance().class_name_to_class[NAME] = RayLauncher


def connect(settings: DictConfig) -> None:
    """Start Ray or join a cluster, unless that was done before.

    Args:
        settings: hydra.launcher.ray.

    Raises:
        UserError: Ray refuses a setting, the cluster does not answer, or no node is large enough for a job.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # late: it takes a second, and is an extra

    if ray.is_initialized():
        return
    logging.getLogger(TOKEN_LOG).setLevel(logging.ERROR)
    start, options = (OmegaConf.to_container(each, resolve=True) for each in (settings.init, settings.remote))
    with _as_user_error("init"):
        _look_for_cluster(start.get("address"))
        ray.init(**start)
    with _as_user_error("remote"):
        ray.remote(**options)(_job)
    asked = _asked(options)
    if not any(all(node.get(kind, 0) >= amount for kind, amount in asked.items()) for node in _nodes(ray)):
        shown = " ".join(f"num_{kind.lower()}s={amount:g}" for kind, amount in asked.items())
        text = f"hydra.launcher.ray.remote: no node has what a job needs ({shown}); available: {_found(ray)}"
        if start.get("address") == "local":
            ray.shutdown()
            raise UserError(text)
        log.warning("%s; the jobs wait for such a node", text)


def _asked(options: dict) -> dict[str, float]:
    return {"CPU": options.get("num_cpus") or 1, "GPU": options.get("num_gpus") or 0}


def _nodes(ray: ModuleType) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _found(ray: ModuleType) -> str:
    nodes = _nodes(ray)
    cores, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{plural(len(nodes), 'node')} with {cores:g} cores and {gpus:g} GPUs"


class Sweep(NamedTuple):
    """What all jobs share, sent once to each node."""

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: dict[Any, Any]
    place: str  # current folder of the command
    threads: int  # per job


class RayLauncher(Launcher):
    """Run jobs as Ray tasks. Ray reuses a process for the next job, except on a GPU, where each job gets a new one.

    Ray restarts a job that was stopped, or whose process or node was lost; the job then resumes like any run.
    """

    def __init__(self, ray: DictConfig):
        self._settings = ray
        self._options = OmegaConf.to_container(ray.remote, resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for them; on a signal, let all of them save and stop."""
        connect(self._settings)  # for smallest.py; a sweep has connected before writing anything
        import ray

        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        threads = max(1, int(self._options.get("num_cpus") or 1))
        sweep = Sweep(self._context, self._config, self._task, Singleton.get_state(), str(Path.cwd()), threads)
        try:
            run = ray.remote(**{"name": "job"} | self._options)(_job)
            asked, count = _asked(self._options), plural(len(job_overrides), "job")
            log.info("Ray: %s on %s; each takes %g cores and %g GPUs", count, _found(ray), asked["CPU"], asked["GPU"])
            shared = ray.put(sweep)
            numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
            jobs = [run.remote(shared, *job) for job in zip(numbers, job_overrides, strict=True)]
            with _stopping(ray, jobs):
                return [_result(ray, sweep, *job) for job in zip(jobs, numbers, job_overrides, strict=True)]
        finally:
            time.sleep(LAST_LINES_S)
            ray.shutdown(wait_for_processes=True)


def _look_for_cluster(address: str | None) -> None:
    """Raise ConnectionError if nothing answers at HOST:PORT; Ray would wait a quarter of an hour."""
    host, separator, port = (address or "").rpartition(":")
    if separator and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise ConnectionError(
                f"nothing answers at address={address} ({error}); ray start --head prints the address"
            ) from error


@contextlib.contextmanager
def _as_user_error(key: str) -> Iterator[None]:
    """Name the setting in errors of Ray, such as a missing cluster or an unknown argument."""
    try:
        yield
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"hydra.launcher.ray.{key}: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _stopping(ray: ModuleType, jobs: Sequence) -> Iterator[None]:
    """On a signal, let running jobs save and end, and wait for them; a second signal ends the waiting."""
    received = []

    def stop(number: int, frame) -> None:
        received.append(number)
        raise KeyboardInterrupt  # the only exception that Ray lets through while it waits

    with handle_stops(stop):
        try:
            yield
        except KeyboardInterrupt:
            stopped = StopRequested(received[0])
            log.warning("%s: waiting for the jobs to save; a second signal ends them at once", stopped)
            with contextlib.suppress(KeyboardInterrupt):
                for job in jobs:
                    ray.cancel(job)
                ray.wait(jobs, num_returns=len(jobs), timeout=SAVING_S)
            stopped.next_step = resume_advice(STATE.command)
            raise stopped from None


def _result(ray: ModuleType, sweep: Sweep, job, number: int, overrides: Sequence[str]) -> JobReturn:
    """Wait for a job; log and note one that Ray has lost for good, so that the others complete."""
    try:
        return ray.get(job)
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, ray.exceptions.RayError):
            raise error.cause from None
        config = compose_job(sweep.context, sweep.config, number, overrides)
        return note_lost(config, str(error))


def _job(sweep: Sweep, number: int, overrides: Sequence[str]) -> JobReturn:
    """Run a job in a Ray process."""
    setup_globals()
    Singleton.set_state(sweep.singletons)
    folder = Path(sweep.place, sweep.config.hydra.sweep.dir)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: does not exist on node {socket.gethostname()}; all nodes of a cluster need access to the sweep's folder"
        )
    os.chdir(sweep.place)
    os.environ["OMP_NUM_THREADS"] = str(sweep.threads)
    config = compose_job(sweep.context, sweep.config, number, overrides)
    try:
        return run_job(
            hydra_context=sweep.context, task_function=sweep.task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
    except StopRequested:
        os._exit(1)  # as if killed: it may have stopped inside an import, so it must run no other job
