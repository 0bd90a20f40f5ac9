"""One job, alone, of a sweep or of a search: what is done before, its record, and what becomes of an error."""

import contextlib
import gc
import logging
import os
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from common import errors
from common.atomic_io import tolerate_disk_errors
from common.errors import TrialPruned
from common.run_record import RunRecord
from common.signals import slurm_requeue, stop_immediately
from engine import error_messages, log_handlers
from engine.config.validate import validate_early
from engine.run.job_state import LAST, should_run
from engine.run.resume import resume_config

log = logging.getLogger(__name__)

RESUME_FROM = "JUSTENOUGH_GOES_ON"  # tells the further processes of a run what the first one has found in its folder


class Job(NamedTuple):
    """What is known of a job before it runs."""

    folder: Path
    command: list[str]  # as typed
    overrides: list[str]
    choices: dict[str, str | None]  # which file each group took
    one_of_many: bool  # a sweep's or a search's


def run_job(job: Job, config: DictConfig, run: Callable[[DictConfig, RunRecord], None]) -> Exception | None:
    """Runs a job whose config is composed, unless it is one of many and was finished before.

    Returns the error that it ended with, or that a search has ended it, recorded and not raised: the other jobs go on.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0))
    warning_list = _listen(rank)
    record = None
    try:
        with folder_lock(job.folder, rank) as alone, stop_immediately():
            if not alone and job.one_of_many:
                log.info("%s: another process is at it", job.folder.name)
                return None
            if not alone:
                raise ValueError(f"{job.folder}: another process is training in this folder; wait for it or stop it")
            record = RunRecord(job.folder, command=job.command, overrides=job.overrides, write=rank == 0)
            config = resume_config(config, job.overrides, job.folder)
            record.describe(OmegaConf.to_container(config, resolve=False), job.choices)
            if rank and RESUME_FROM in os.environ:
                config.ckpt_path = os.environ[RESUME_FROM] or None
            elif not should_run(config, record, one_of_many=job.one_of_many):
                return None
            os.environ[RESUME_FROM] = config.ckpt_path or ""
            with tolerate_disk_errors(record.folder / "result.json"):
                record.start()
            validate_early(config)
            run(config, record)
            _finish(record, config.ckpt_path, warning_list.messages)
        return None
    except errors.StopRequested as stopped:
        if record is not None:
            with tolerate_disk_errors(record.folder / "result.json"):
                record.stop(warning_list.messages)
        stopped.next_step = _how_to_go_on(job)
        if stopped.number == getattr(signal, "SIGUSR1", None) and not rank:
            _queue_again(job)
        raise
    except TrialPruned as pruned:
        record.prune(str(pruned), warning_list.messages)
        return pruned
    except Exception as error:
        message = error_messages.user_message(error)
        if record is not None:
            record.fail(message or f"{type(error).__name__}: {error}", warning_list.messages)
        if job.one_of_many:
            log.error("%s: %s", job.folder.name, message or error, exc_info=message is None)
        return error
    finally:
        logging.getLogger().removeHandler(warning_list)
        if job.one_of_many:
            gc.collect()  # trainer and data hold each other, with all that is on the device; by itself it would come late


def _listen(rank: int) -> log_handlers.WarningCollector:
    """Collects warnings for the record; further processes of a run keep quiet."""
    if rank:
        logging.disable(logging.WARNING)
    warnings.showwarning = log_handlers.log_python_warning  # of this process, which may be one that a launcher started
    warning_list = log_handlers.WarningCollector()
    logging.getLogger().addHandler(warning_list)
    return warning_list


def _finish(record: RunRecord, ckpt_path: str | None, messages: list[str]) -> None:
    """The record's end, and the card of what was measured."""
    record.finish(messages)
    if record.writes and (record.val or record.test):
        from reports.model_card import CARD, write_card  # late: scipy

        with tolerate_disk_errors(record.folder / CARD):
            write_card(record, ckpt_path)


def _queue_again(job: Job) -> None:
    """In SLURM, where the same command goes on with this job and does not begin another one."""
    if job.one_of_many or any(argument.startswith(("hydra.run.dir=", "ckpt_path=")) for argument in job.command):
        slurm_requeue()
    else:
        log.warning(
            "SLURM's job is not queued again: its command would begin a new run; name a folder: hydra.run.dir=DIR"
        )


def _how_to_go_on(job: Job) -> str:
    last = job.folder / LAST
    if job.one_of_many:
        return "; the same command goes on"
    if not last.is_file():
        return "; nothing was saved yet"
    return f"; go on: python train.py {shlex.quote(f'ckpt_path={last}')}"


@contextlib.contextmanager
def folder_lock(folder: Path, rank: int) -> Iterator[bool]:
    """Holds the folder against other processes; a killed process lets go of it. True where there is no such thing."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    if rank or not folder.is_dir():
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    except OSError:  # a file system without locks
        alone = True
    try:
        yield alone
    finally:
        os.close(handle)
