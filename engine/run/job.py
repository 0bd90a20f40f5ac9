"""One job, single or of a sweep or a search: what is done before it runs, its record, and how an error or a signal ends it."""

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

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from common.atomic_io import tolerate_disk_errors, write_bytes
from common.errors import DISK_ERRORS, StopRequested, TrialPruned, UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.signals import slurm_requeue, stop_immediately
from engine import error_messages, log_handlers
from engine.flags import own_folders
from engine.run.component_errors import component_error
from engine.run.job_state import should_run
from engine.run.resume import resume_config

log = logging.getLogger(__name__)

RESUME_FROM = "JUSTENOUGH_RESUME_FROM"  # the checkpoint that a run's first process found, for its other processes


class Job(NamedTuple):
    """What is known of a job before it runs."""

    folder: RunFolder
    command: list[str]  # as typed
    overrides: list[str]
    choices: dict[str, str | None]  # the file that each group took
    in_sweep: bool  # one of the jobs of a sweep or a search
    side_by_side: bool = False  # other jobs of its sweep run at the same time


def run_job(job: Job, config: DictConfig, run: Callable[[DictConfig, RunRecord], None]) -> Exception | None:
    """Run a job whose config is composed, unless it is one of a sweep and has finished already.

    Return the error that ended it, recorded and not raised, so that the other jobs of a sweep run; TrialPruned too.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0))
    warning_list = _collect_warnings(rank)
    record = None
    try:
        with folder_lock(job.folder, rank) as locked, stop_immediately():
            if not locked:
                _skip(job)
                return None
            before = _read(job.folder.config)
            record = RunRecord.begin(job.folder, command=job.command, overrides=job.overrides, writes=rank == 0)
            record.in_sweep, record.latency_comes_later = job.in_sweep, job.side_by_side
            config = resume_config(config, job.overrides, job.folder)
            record.describe(OmegaConf.to_container(config, resolve=False), job.choices)
            if rank and RESUME_FROM in os.environ:
                config.ckpt_path = os.environ[RESUME_FROM] or None
            elif not should_run(config, record, in_sweep=job.in_sweep):
                return None
            os.environ[RESUME_FROM] = config.ckpt_path or ""
            if record.previous is not None:
                before |= _read(job.folder.record, job.folder.splits, job.folder.summary)
            record.save()
            run(config, record)
            _finish(record, config.ckpt_path, warning_list.messages)
        return None
    except StopRequested as stopped:
        if record is not None:
            with tolerate_disk_errors(job.folder.record):
                record.mark_interrupted(warning_list.messages)
        stopped.next_step = _how_to_resume(job)
        if stopped.number == getattr(signal, "SIGUSR1", None) and not rank:
            _requeue(job)
        raise
    except TrialPruned as pruned:
        record.prune(str(pruned), warning_list.messages)
        return pruned
    except Exception as raised:
        kept = _how_to_resume(job) if job.folder.last_checkpoint.is_file() else ""
        error = component_error(raised, config, kept) or raised
        message = error_messages.user_message(error)
        refused = isinstance(error, UserError) and record is not None and record.previous and not record.has_done
        if refused and not rank:  # what the run before in this folder has left stays
            _restore(before)
        elif record is not None:
            _record_error(record, error, message, warning_list.messages)
        if job.in_sweep:
            log.error("%s: %s", job.folder.path.name, message or error, exc_info=message is None)
        return error
    finally:
        logging.getLogger().removeHandler(warning_list)
        if job.in_sweep:
            gc.collect()  # trainer and data refer to each other and hold device memory until this runs


def _collect_warnings(rank: int) -> log_handlers.WarningCollector:
    """Collect warnings for the record; silence the log of all processes of a run but the first."""
    if rank:
        logging.disable(logging.WARNING)
    warnings.showwarning = log_handlers.log_python_warning  # of this process, which a launcher may have started
    warning_list = log_handlers.WarningCollector()
    logging.getLogger().addHandler(warning_list)
    return warning_list


def _skip(job: Job) -> None:
    """Log that another process runs this job of a sweep.

    Raises:
        UserError: it is a single run.
    """
    if not job.in_sweep:
        raise UserError(f"{job.folder.path}: another process is training in this folder; wait for it or stop it")
    log.info("%s: skipped: another process is running this job", job.folder.path.name)


def _finish(record: RunRecord, ckpt_path: str | None, messages: list[str]) -> None:
    """Complete the record and write the model card of what was measured."""
    from reports.model_card import write_card  # late: scipy; but not between the record and the card

    record.finish(messages)
    if record.writes and (record.val or record.test):
        with tolerate_disk_errors(record.folder.model_card):
            write_card(record, ckpt_path)


def _read(*paths: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths if path.is_file()}


def _restore(before: dict[Path, bytes]) -> None:
    """Put files back that a command has changed before it was refused."""
    for path, content in before.items():
        write_bytes(path, content)


def _record_error(record: RunRecord, error: Exception, message: str | None, messages: list[str]) -> None:
    """Record that a run failed; one that the disk ended after its first checkpoint as interrupted, since it can be resumed."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS and record.folder.last_checkpoint.is_file():
        with tolerate_disk_errors(record.folder.record):
            record.mark_interrupted([*messages, message])
    else:
        record.fail(message or f"{type(error).__name__}: {error}", messages)


def _requeue(job: Job) -> None:
    """Queue SLURM's job again, where the same command resumes this job and does not start another one."""
    if job.in_sweep or any(argument.startswith(("hydra.run.dir=", "ckpt_path=")) for argument in job.command):
        slurm_requeue()
    else:
        log.warning(
            "the SLURM job is not requeued: its command would start a new run; name a folder: hydra.run.dir=DIR"
        )


def _how_to_resume(job: Job) -> str:
    if job.in_sweep:
        return f". Resume with: {shlex.join(job.command)}"
    if not job.folder.last_checkpoint.is_file():
        return "; no checkpoint was written yet"
    again = [each for each in job.overrides if each.lstrip("+").startswith(("datamodule.source.", "logger."))]
    command = ["python", "train.py", *own_folders(job.command), f"ckpt_path={job.folder.last_checkpoint}", *again]
    return f". Resume with: {shlex.join(command)}"


@contextlib.contextmanager
def folder_lock(folder: RunFolder, rank: int = 0) -> Iterator[bool]:
    """Lock a folder against other processes; yield whether that succeeded, True too where there are no locks.

    The system releases the lock of a killed process. Its file stays, which means nothing; the next run takes and removes it.
    """
    lock, locked = FileLock(folder.lock, timeout=0), True
    if not rank and folder.path.is_dir():
        try:
            lock.acquire()
        except Timeout:
            locked = False
        except (OSError, NotImplementedError):  # a file system that is read-only, full or without locks
            pass
    try:
        yield locked
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                folder.lock.unlink()  # before the release: afterwards it could be another process's
            lock.release()
