"""Around every root script: names of folders, going on from a checkpoint, errors in words. Imports no torch."""

import time

STARTED = [time.perf_counter()]  # of the process, then of each further job of a sweep

import functools
import hashlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from common import errors, run_folder
from common.run_record import RunRecord
from common.text import printable
from common.untrusted.saved_config import read_saved_choices, read_saved_config
from engine import error_messages, help, log_handlers
from engine.process_tuning import tune_process
from engine.run.job import Job, run_job
from engine.run.job_state import is_interrupted_run
from engine.run.resume import run_of_checkpoint
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)

CONF = run_folder.PROJECT / "conf"
OUTPUTS = run_folder.PROJECT / "outputs"
LONGEST_NAME = 90
MULTIRUN = ("-m", "--multirun")
TRACEBACK = "JUSTENOUGH_TRACEBACK"


class FailedJob(NamedTuple):
    """A job that did not come to its end."""

    name: str
    error: Exception | None  # None where it is another process that knows it
    alone: bool  # not one of a sweep


FAILED: list[FailedJob] = []  # of this process
TYPED: list[str] = []  # the command, as typed


def run_cli(main: Callable[[], None]) -> None:
    """Runs a root script's main: arguments completed before, errors in words and the exit status after."""
    tune_process()
    TYPED[:] = ["python", Path(sys.argv[0]).name, *sys.argv[1:]]
    # Of this command; the processes that it starts find Hydra's own variable set below
    wants_traceback = os.environ.setdefault(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print
    warnings.showwarning = log_handlers.log_python_warning
    try:
        script = Path(sys.argv[0]).name
        if script != "train.py" and set(MULTIRUN) & set(sys.argv):
            raise ValueError(f"-m: {script} does not sweep; python train.py -m ... does")
        if "LOCAL_RANK" not in os.environ:  # a further process of DDP gets its arguments complete
            sys.argv[1:] = complete_overrides(sys.argv[1:])
        main()
        if len(FAILED) == 1 and FAILED[0].alone:
            raise FAILED[0].error
    except errors.StopRequested as stopped:
        if int(os.environ.get("LOCAL_RANK", 0)):  # the first process says it; another status would have it killed first
            sys.exit(0)
        print(f"stopped by {stopped}{stopped.next_step}", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = error_messages.user_message(error)
        if wants_traceback or message is None:
            raise
        print(f"ERROR: {printable(message)}", file=sys.stderr)
        sys.exit(1)
    if FAILED:
        names = ", ".join(failed.name for failed in FAILED)
        print(
            f"ERROR: {len(FAILED)} of the jobs failed: {names}. The same command runs them again, and no other",
            file=sys.stderr,
        )
        sys.exit(1)


def run_hydra_job(config: DictConfig, run: Callable[[DictConfig, RunRecord], None]) -> None:
    """One job, as Hydra starts it; an error is kept for `start`, so that Hydra comes to its end."""
    tune_process()  # of a process that a launcher has started
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    progress = SweepProgress.of(folder.parent) if in_sweep else None
    if in_sweep and not hydra_config.launcher._target_.endswith(".BasicLauncher"):
        log_handlers.prefix_log_lines(folder.name)
    if progress:
        log.info("\nJob %d of %d: %s", hydra_config.job.num + 1, progress.jobs, folder.name)
    job = Job(
        folder=folder,
        command=progress.command if progress else TYPED,
        overrides=list(hydra_config.overrides.task),
        choices=dict(hydra_config.runtime.choices),
        one_of_many=in_sweep,
    )
    error = run_job(job, config, run)
    if error is not None:
        FAILED.append(FailedJob(folder.name, error, alone=not in_sweep))
    if progress:
        log.info(progress.in_words())
    STARTED.append(time.perf_counter())


def complete_overrides(arguments: list[str]) -> list[str]:
    """Adds to the arguments where the run or the sweep goes, unless they say so themselves."""
    try:
        overrides = OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")])
    except OverrideParseException:
        return arguments  # Hydra will say it
    values = {override.key_or_group: override for override in overrides}
    for key, override in values.items():
        _check_choice(key, override)
    added = []
    if "hydra.sweep.dir" not in values:
        added.append(_quoted("hydra.sweep.dir", OUTPUTS / "sweeps" / sweep_name(arguments, overrides)))
    launcher = values.get("hydra/launcher")
    if launcher and (CONF / "hydra" / "jobs" / f"{launcher.value()}.yaml").is_file():
        added.append(f"hydra/jobs={launcher.value()}")  # a plugin's file cannot be extended under its own name
    same_in_all_jobs = [key for key, override in values.items() if not override.is_sweep_override()]
    added.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same_in_all_jobs)}]")
    run_dir = values["hydra.run.dir"].value() if "hydra.run.dir" in values else None
    if isinstance(run_dir, str) and "ckpt_path" not in values and is_interrupted_run(Path(run_dir)):
        added.append("hydra.output_subdir=null")  # it goes on with its own .hydra, or is refused
    ckpt_path = values["ckpt_path"].value() if "ckpt_path" in values else None
    if isinstance(ckpt_path, str) and not values["ckpt_path"].is_sweep_override():
        goes_on = "stages" not in values or "fit" in str(values["stages"].value())
        folder = run_of_checkpoint(Path(ckpt_path))
        if folder and "hydra.run.dir" not in values:
            place = (
                folder
                if goes_on
                else new_run_dir(OmegaConf.select(read_saved_config(folder, values), "model.name") or "run")
            )
            added.append(_quoted("hydra.run.dir", place))
        if folder:  # single settings on top then find the groups that they belong to
            added = [
                f"{group}={name}" for group, name in read_saved_choices(folder).items() if group not in values
            ] + added
        if folder and goes_on:
            added.append("hydra.output_subdir=null")  # the run's own .hydra stays
    flags = [a for a in arguments if a in MULTIRUN]  # argparse does not find them in the midst of overrides
    return [*flags, *(a for a in arguments if a not in MULTIRUN), *added]


def _check_choice(key: str, override: Override) -> None:
    """Raises ValueError where a group is given a value that is no name of a file, as null, which Hydra cannot tell."""
    folder = CONF / key
    if not re.fullmatch(r"[\w/]+", key) or not folder.is_dir() or override.is_delete() or override.is_sweep_override():
        return
    if not isinstance(override.value(), (str, list)):
        names = [path.stem for path in folder.glob("*.yaml")]
        raise ValueError(f"{override.input_line}: no such choice; {error_messages.nearest('none', names)}")


def sweep_name(arguments: list[str], overrides: list[Override]) -> str:
    """The experiment's name, or the swept keys and a hash of the command: the same command, the same sweep.

    Which launcher runs the jobs is not a part of it: a sweep may go on with another one.
    """
    for override in overrides:
        if override.key_or_group == "experiment" and not override.is_sweep_override():
            return safe_name(str(override.value()))
    swept = [o.key_or_group.split(".")[-1] for o in overrides if o.is_sweep_override()]
    said = sorted(a for a in arguments if not a.lstrip("+").startswith(("hydra/launcher", "hydra.launcher.")))
    digest = hashlib.blake2b("\0".join(said).encode(), digest_size=4).hexdigest()
    return safe_name(f"{'_'.join(swept) or 'sweep'}-{digest}")


def safe_name(text: str) -> str:
    """`text` in [A-Za-z0-9._-] and under 100 characters; with a hash where that loses something."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    lossless = re.fullmatch(r"[A-Za-z0-9._=,-]*", text)
    if lossless and safe and len(safe) <= LONGEST_NAME:
        return safe
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).hexdigest()
    return f"{safe[: LONGEST_NAME - 9]}-{digest}".lstrip("-")


def job_dir_name(overrides: list[str], same_in_all_jobs: list[str]) -> str:
    """A sweep's job is named from what is swept, by the last word of each key: `batch_size-16_lr-0.1`."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in same_in_all_jobs:
            parts.append(f"{key.split('.')[-1]}-{value}")
    return safe_name("_".join(parts) or "job")


@functools.cache
def new_run_dir(model: str) -> str:
    """outputs/MODEL/DATE_TIME, made here so that no other run of the same second gets it; one for each process."""
    stem = OUTPUTS / safe_name(model) / time.strftime("%Y-%m-%d_%H-%M-%S")
    for count in range(1, 1000):
        folder = stem if count == 1 else stem.with_name(f"{stem.name}-{count}")
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            continue
    raise ValueError(f"{stem}: a thousand runs started in one second; wait a second")


def threads_of_job(jobs: int) -> int:
    """The share of the cores that each of so many jobs at a time has; -1: as many jobs as cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs) if jobs > 0 else 1


def gpus_of_job() -> int:
    """1 where NVIDIA's driver shows a GPU, else 0; asked without torch."""
    return int(any(Path("/proc/driver/nvidia/gpus").glob("*")))


def _quoted(key: str, path: Path | str) -> str:
    return f"{key}={QuotedString(text=str(path), quote=Quote.double).with_quotes()}"


OmegaConf.register_new_resolver("new_run_dir", new_run_dir)
OmegaConf.register_new_resolver("job_dir_name", job_dir_name)
OmegaConf.register_new_resolver("project", lambda path: str(run_folder.PROJECT / path))
OmegaConf.register_new_resolver("rounded_quotient", lambda dividend, divisor: round(dividend / divisor))
OmegaConf.register_new_resolver("threads_of_job", threads_of_job)
OmegaConf.register_new_resolver("gpus_of_job", gpus_of_job)
OmegaConf.register_new_resolver("help_groups", lambda verb: help.help_groups(CONF, verb))
OmegaConf.register_new_resolver("help_settings", lambda verb: help.help_settings(CONF, verb))
