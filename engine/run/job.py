"""One job, single or of a sweep or a search: its preparation, its record, and how an error or a signal ends it."""

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from common.atomic_io import tolerate_disk_errors, write_text
from common.errors import DISK_ERRORS, REMOVED_FOLDER, StopRequested, TrialPruned, UserError
from common.flags import own_folders
from common.idle import key_of, warn_of_repeated
from common.locks import locked
from common.progress import Progress
from common.run_folder import RunFolder, shown_script
from common.run_record import RunRecord, SplitMetrics, increment_test_evaluations
from common.signals import ignore_stops, slurm_requeue, stop_immediately
from common.text import quote_override, shell_join
from common.untrusted.saved_config import untrusted_keys
from engine import error_messages, log_handlers
from engine.process_tuning import collect_garbage
from engine.processes import (
    FirstProcessFailed,
    Process,
    agreed_error,
    announce_stop,
    check_shared,
    error_behind_stop,
    launched_process,
    process_of_run,
    share,
)
from engine.run.component_errors import component_error
from engine.run.folder_backup import FolderBackup
from engine.run.job_state import lies_in, should_run
from engine.run.resume import resume_config
from engine.state import STATE, resume_advice

log = logging.getLogger(__name__)

# Settings that a run does not keep, besides stages
NOT_KEPT = ("datamodule.source.", "datamodule.cache", "datamodule.gpu_cache_gib", "logger.", "register=")
RESUME_FROM = "JUSTENOUGH_RESUME_FROM"  # passes the checkpoint that a run's first process found to its other processes


class Job(NamedTuple):
    """What is known of a job before it runs."""

    folder: RunFolder
    command: list[str]  # as typed
    overrides: list[str]
    choices: dict[str, str | None]  # group -> its chosen file
    in_sweep: bool  # one of the jobs of a sweep or a search
    side_by_side: bool = False  # other jobs of its sweep run at the same time
    hydra: DictConfig | None = None  # Hydra's own part of the configuration


def run_job(job: Job, config: DictConfig, run: Callable[[DictConfig, RunRecord], None]) -> Exception | None:
    """Run a job with its composed configuration, unless it belongs to a sweep and has finished already.

    Return the error that ended it (TrialPruned, too): it is recorded and not raised, so that a sweep's other jobs run.
    """
    process = process_of_run(config.trainer.strategy, in_sweep=job.in_sweep)
    warning_list = _collect_warnings(process.rank)
    if not (process.is_launched or job.in_sweep) and (tasks := launched_process()).launcher == "srun":
        log.info("one of %d srun tasks, each with a run of its own; for one run on all: trainer=ddp", tasks.world_size)
    if len(job.command) > 1 and Path(job.command[1]).name == "train.py":  # others warn once for all their runs
        warn_of_repeated(job.command)
    try:
        with folder_lock(job.folder, process.rank) as is_free:
            if is_free:
                return _run_locked(job, config, run, process, warning_list)
            if job.in_sweep:
                log.info("%s: skipped: another process is running this job", job.folder.path.name)
                return None
            error = UserError(f"{job.folder.path}: another process is training in this folder; wait for it or stop it")
            return agreed_error(process, error, str(error))
    finally:
        logging.getLogger().removeHandler(warning_list)
        if job.in_sweep:
            collect_garbage()


def _run_locked(
    job: Job, config: DictConfig, run: Callable, process: Process, warning_list: log_handlers.WarningCollector
) -> Exception | None:
    record, backup = None, _backup(job)
    try:
        with stop_immediately():
            if process.is_first:
                backup.recover()
            elif process.is_launched:
                os.environ[RESUME_FROM] = share(process, "checkpoint")  # then the first process's record exists
            record = RunRecord.begin(job.folder, command=job.command, overrides=job.overrides, writes=process.is_first)
            record.in_sweep, record.latency_comes_later = job.in_sweep, job.side_by_side
            record.collected = warning_list.messages
            config, changed = resume_config(config, job.overrides, job.folder)
            strategy = config.trainer.strategy  # with a checkpoint, its run's strategy
            if process_of_run(strategy, in_sweep=job.in_sweep).is_launched != process.is_launched:
                raise UserError(
                    f"ckpt_path={config.ckpt_path}: its run has trainer.strategy={strategy}; add that setting"
                )
            record.describe(OmegaConf.to_container(config, resolve=False), job.choices)
            if not process.is_first and RESUME_FROM in os.environ:
                config.ckpt_path = os.environ[RESUME_FROM] or None
            elif not _begin(job, config, record, backup, bool(changed)):
                return None
            os.environ[RESUME_FROM] = config.ckpt_path or ""
            record.save()
            if process.is_first:
                share(process, "checkpoint", os.environ[RESUME_FROM])
            check_shared(process, job.folder.config)
            with _ends_with_a_word():
                run(config, record)
            if process.is_first and not job.folder.config.is_file():  # removed during the run, and created again
                raise UserError(f"{job.folder.path}: {REMOVED_FOLDER}")
            _finish(record, config.ckpt_path)
            backup.discard()
        return None
    except StopRequested as stopped:
        if (error := error_behind_stop(process)) is not None:
            with ignore_stops():
                return _record_failure(error, job, config, process, record, backup)
        announce_stop(process, stopped.number)
        if record is not None:
            with tolerate_disk_errors(job.folder.record):
                if not _put_back(record, backup, else_recorded=True):
                    record.mark_interrupted()
                    backup.discard()
        stopped.next_step = _how_to_resume(job, config)
        if stopped.number == getattr(signal, "SIGUSR1", None) and process.is_first:
            _requeue(job)
        raise
    except TrialPruned as pruned:
        record.prune(str(pruned))
        backup.discard()
        return pruned
    except Exception as raised:
        # When one process ends, torchrun sends a signal to all others
        with ignore_stops() if process.is_launched else contextlib.nullcontext():
            return _record_failure(raised, job, config, process, record, backup)


def _record_failure(
    raised: Exception, job: Job, config: DictConfig, process: Process, record: RunRecord | None, backup: FolderBackup
) -> Exception:
    """Record the error that ended the job, unless the folder is restored; return the error as the user is to see it."""
    kept = _how_to_resume(job, config) if job.folder.last_checkpoint.is_file() else ""
    error = component_error(raised, config, kept) or raised
    if isinstance(raised, FileNotFoundError) and not job.folder.path.is_dir():
        error, record = UserError(f"{job.folder.path}: {REMOVED_FOLDER}"), None
    message = error_messages.user_message(error)
    agreed = agreed_error(process, error, message, lost=message == error_messages.LOST)
    if agreed is not error:
        error, message = agreed, error_messages.user_message(agreed)
    elif message == error_messages.LOST:
        message += kept
        shown = not process.is_first and _has_ended(job.folder)
        error = FirstProcessFailed() if shown else UserError(message)
    if job.in_sweep:
        log.error("%s: %s", job.folder.path.name, message or error, exc_info=message is None)
    if record is not None:
        with tolerate_disk_errors(job.folder.record):
            if not _put_back(record, backup, else_recorded=job.in_sweep or message is None):
                _record_error(record, error, message)
                backup.discard()
    return error


@contextlib.contextmanager
def _ends_with_a_word() -> Iterator[None]:
    """Turn what would end the command silently, with the job recorded as running, into a stop or an error."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as raised:
        if KeyboardInterrupt in (type(raised), type(raised.__context__)):  # Lightning turns the first into the second
            raise StopRequested(signal.SIGINT) from raised
        raise RuntimeError("a component called sys.exit during the run") from raised


def _backup(job: Job) -> FolderBackup:
    """Return a backup of the job's folder; it keeps a replaced run next to the sweep, or next to a single run's folder."""
    beside = job.folder.path.parent if job.in_sweep else job.folder.path
    whole = job.in_sweep or job.folder.path in STATE.made_folders
    return FolderBackup(job.folder, whole=whole, kept_in=beside.with_name(f"{beside.name}.replaced"))


def _begin(job: Job, config: DictConfig, record: RunRecord, backup: FolderBackup, changed: bool) -> bool:
    """Decide whether the job is to run; if so, back up its folder and write its configuration.

    Args:
        changed: whether the command changes settings of the run that it resumes.
    """
    folder, previous = job.folder, record.previous
    finished = previous is not None and previous.status in ("finished", "pruned")
    backup.holds_training = finished or any(folder.checkpoints.glob("*.ckpt"))
    in_own_folder = lies_in(folder, config.ckpt_path)
    if previous is not None and in_own_folder and "fit" not in config.stages:
        record.evaluates_again = True
    text = OmegaConf.to_yaml(config)  # before should_run adds an interrupted run's checkpoint
    if not should_run(config, record):
        return False
    digest = previous.run.config_hash or "run" if previous else "unreadable"
    restarts = record.previous is None and not in_own_folder
    extends = in_own_folder and "fit" in config.stages and (previous is None or previous.status == "finished")
    if previous is None and in_own_folder:
        _check_lost_record(config, record)
    backup.begin(restarts=restarts, extends=extends, kept_as=f"{folder.path.name}-{digest}" if job.in_sweep else digest)
    unknown = not folder.choices.is_file()
    if not folder.config.is_file() or (not record.evaluates_again and (changed or unknown)):
        write_configuration(folder, text, job.hydra if unknown else None)
    return True


def _check_lost_record(config: DictConfig, record: RunRecord) -> None:
    """Mark the number of test evaluations as unknown where a run continues from its checkpoint without a readable record.

    Raises:
        UserError: the record is damaged, and an evaluation would replace it by one without the training.
    """
    if "fit" in config.stages:
        log.warning(
            "%s: how often this training was evaluated on test is unknown, without its record", record.folder.path
        )
        record.previous = RunRecord(status="finished", test=SplitMetrics())
    elif record.folder.record.is_file():
        raise UserError(
            f"{record.folder.record}: is damaged, and an evaluation in the run's own folder would replace it; evaluate in "
            "another folder (leave out hydra.run.dir), or move the damaged file away first"
        )


def write_configuration(folder: RunFolder, text: str, hydra: DictConfig | None) -> None:
    """Write .hydra as Hydra would, but only once the command is accepted; without Hydra's part, only config.yaml."""
    folder.hydra.mkdir(parents=True, exist_ok=True)
    write_text(folder.config, text)
    if hydra is not None:
        write_text(folder.choices, OmegaConf.to_yaml(hydra))
        write_text(folder.overrides, OmegaConf.to_yaml(hydra.hydra.overrides.task))


def _has_ended(folder: RunFolder) -> bool:
    """Return whether the first process has recorded its end or restored the folder; a killed one leaves status running."""
    record = RunRecord.read_if_intact(folder)
    return record is None or record.status != "running"


def _put_back(record: RunRecord, backup: FolderBackup, *, else_recorded: bool) -> bool:
    """Restore the folder where the command has neither trained nor measured anything; return whether it was restored.

    Args:
        else_recorded: do not restore where recording how the command ended would lose no earlier training.
    """
    has_done = backup.has_new_checkpoint or (record.has_done and not record.evaluates_again)
    if not record.writes or has_done or (else_recorded and not backup.holds_training):
        return False
    backup.restore()
    log_handlers.undo_log_file(record.folder.log)
    if record.evaluates_again and record.test is not None:
        increment_test_evaluations(record.folder)
    elif record.resumes and else_recorded:
        os.utime(record.folder.record)  # marks the job as one that this sweep has tried again
    return True


def _collect_warnings(rank: int) -> log_handlers.WarningCollector:
    """Collect warnings for the record; silence the log in all processes of a run except the first."""
    log_handlers.silence_further_process(rank)
    warnings.showwarning = log_handlers.log_python_warning  # a launcher may have started this process, without run_cli
    warning_list = log_handlers.WarningCollector()
    logging.getLogger().addHandler(warning_list)
    return warning_list


def _finish(record: RunRecord, ckpt_path: str | None) -> None:
    """Complete the record and, if anything was measured, write the model card."""
    from reports.model_card import write_card  # late: scipy; but not between writing record and card

    record.finish()
    if record.writes and (record.val or record.test):
        with tolerate_disk_errors(record.folder.model_card), Progress("writing the model card", log):
            write_card(record, ckpt_path)


def _record_error(record: RunRecord, error: Exception, message: str | None) -> None:
    """Record a failed run; if a disk error ended it after its first checkpoint, as interrupted, since it can resume."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS and record.folder.last_checkpoint.is_file():
        with tolerate_disk_errors(record.folder.record):
            record.collected.append(message)
            record.mark_interrupted()
    else:
        record.fail(message or f"{type(error).__name__}: {error}")


def _requeue(job: Job) -> None:
    """Requeue the SLURM job if its command resumes this job rather than starting a new one."""
    if job.in_sweep or any(argument.startswith(("hydra.run.dir=", "ckpt_path=")) for argument in job.command):
        slurm_requeue()
    else:
        log.warning(
            "the SLURM job is not requeued, since its command would start a new run; set a folder: hydra.run.dir=DIR"
        )


def _how_to_resume(job: Job, config: DictConfig) -> str:
    stages = str(config.stages).replace("'", "").replace(" ", "")  # as typed: perhaps the check failed
    if job.in_sweep or "fit" not in stages:
        return resume_advice(job.command)
    if not job.folder.last_checkpoint.is_file():
        return "; no checkpoint was written yet"
    untrusted = untrusted_keys(config)  # classes of the user's own; those of chosen files are found there again
    again = [
        each for each in job.overrides
        if each.lstrip("+").startswith(NOT_KEPT)
        or (key_of(each) not in job.choices and any(f"{key}.".startswith(f"{key_of(each)}.") for key in untrusted))
    ]  # fmt: skip
    if "test" not in stages:  # otherwise the resumed run would be evaluated on the test images
        again.append(f"stages={stages}")
    launcher = {"": "python", "torchrun": "torchrun ...", "srun": "srun ... python"}[STATE.process.launcher]
    checkpoint = quote_override("ckpt_path", str(job.folder.last_checkpoint))
    command = [shown_script("train.py"), *own_folders(job.command), checkpoint, *again]
    return f". Resume with: {launcher} {shell_join(command)}"


@contextlib.contextmanager
def folder_lock(folder: RunFolder, rank: int = 0) -> Iterator[bool]:
    """Lock a folder against other processes; yield whether that succeeded, or True where the file system has no locks.

    The system releases the lock of a killed process. Its file stays behind without effect; the next run takes and removes it.
    """
    if rank or not folder.path.is_dir():
        yield True
        return
    with locked(folder.lock, removes=True) as is_free:
        yield is_free
