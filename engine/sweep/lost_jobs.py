"""Jobs that a launcher lost with their process or node: each gets one line and fails the command; the others complete."""

import functools
import logging
import subprocess
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from common.errors import UserError
from engine.state import STATE, FailedJob

log = logging.getLogger(__name__)

MOST_S = 30  # seconds for an answer of SLURM


def compose_job(context: HydraContext, config: DictConfig, number: int, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of one job of a sweep, and make it this process's; `config` is that of the sweep."""
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = f"{composed.hydra.job.name}_{number}"
        composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)
    return composed


def note_lost(config: DictConfig, reason: str) -> JobReturn:
    """Log that the job with this composed configuration is lost, and make the command fail."""
    name = str(config.hydra.sweep.subdir)
    log.error("%s: lost: %s", name, " ".join(reason.split()))
    if config.hydra.mode == RunMode.MULTIRUN:  # other workers of smallest.py take over
        STATE.failed.append(FailedJob(name, None, in_sweep=True))
    return JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.COMPLETED)


def wait_for_all(launcher: DictConfig) -> None:
    """Make the plugins' launchers wait for all jobs.

    By themselves, submitit's launchers end the command with a traceback when a job is canceled or killed, and joblib's kills
    the jobs on a signal.

    Args:
        launcher: the configured launcher; any other one is left as it is.

    Raises:
        UserError: `n_jobs` is 0, or SLURM cannot be reached.
    """
    if "joblib" in launcher._target_:
        if launcher.n_jobs == 0:
            raise UserError("hydra.launcher.n_jobs=0: use how many jobs run at a time, or -1 for one per core")
        from engine.sweep import joblib_workers  # late: an extra

        joblib_workers.register()
    if "submitit" not in launcher._target_:
        return
    if launcher._target_.endswith(".SlurmLauncher"):
        _check_slurm()
    from submitit import Job  # late: an extra
    from submitit.core.utils import UncompletedJobError

    usual = getattr(Job.results, "__wrapped__", Job.results)

    @functools.wraps(usual)
    def results(job: Job) -> list[JobReturn]:
        try:
            return usual(job)
        except UncompletedJobError:
            submitted = job.submission()  # called by the launcher
            overrides, _, number, *_ = submitted.args
            config = compose_job(submitted.function.hydra_context, submitted.function.config, number, overrides)
            return [note_lost(config, f"job {job.job_id}, {job.state}; what it wrote: {job.paths.stdout}")]

    Job.results = results


def _check_slurm() -> None:
    """Raise UserError where SLURM does not answer, as outside of a cluster; sbatch would fail once files are written."""
    try:
        answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False, timeout=MOST_S)
    except subprocess.TimeoutExpired:  # a busy cluster; sbatch has its own patience
        return
    except FileNotFoundError:
        reason = "there is no program sinfo"
    except OSError as error:  # such as a program that this user may not execute
        reason = f"sinfo: {error.strerror}"
    else:
        if answer.returncode == 0:
            return
        reason = (answer.stderr.strip() or f"sinfo: status {answer.returncode}").splitlines()[-1]
    raise UserError(
        f"hydra/launcher=submitit_slurm: SLURM cannot be reached from this machine ({reason}); run the command on a login "
        "node of a cluster, or use hydra/launcher=joblib"
    )
