"""Decide what an earlier run in a job's folder means for the job: skip it, resume it, restart it or refuse."""

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.text import join_words, override_value, quote_override
from engine.config.top_level import check_trainer_group

log = logging.getLogger(__name__)


def refuse_finished_run(folder: RunFolder) -> None:
    """Raise UserError where the folder that a command names for its run holds a finished run."""
    record = RunRecord.read_if_intact(folder)
    if record and record.status == "finished":
        raise _finished(folder)


def _finished(folder: RunFolder) -> UserError:
    text = "holds a finished run; use another folder"  # after 'stages=[cost]' there is no checkpoint
    if (best := folder.best_checkpoint).is_file():
        text = f"holds a finished run; use another folder, or 'stages=[test]' ckpt_path={best} to evaluate it again"
    return UserError(f"hydra.run.dir={folder.path}: {text}")


def _is_unfinished(record: RunRecord) -> bool:
    """Return whether a run was interrupted, or failed after its first checkpoint."""
    return record.status == "running" or (record.status == "failed" and record.folder.last_checkpoint.is_file())


def lies_in(folder: RunFolder, ckpt_path: str | None) -> bool:
    """Return whether a checkpoint belongs to the run in this folder."""
    return ckpt_path is not None and Path(ckpt_path).resolve().parent == folder.checkpoints.resolve()


def check_in_sweep(config: DictConfig, debug: str | None) -> None:
    """Check that a job can be part of a sweep or a search.

    Args:
        debug: the chosen file of conf/debug.

    Raises:
        UserError: the job would start processes with the sweep's command line, is a debug run, or has no trainer.
    """
    check_trainer_group(config)
    if str(config.trainer.strategy).startswith("ddp"):
        raise UserError(
            "trainer=ddp in a sweep: each process would start the whole sweep again. Use one "
            "device per job (trainer=auto), or start the runs one by one without -m"
        )
    if debug:
        raise UserError(
            f"debug={debug} in a sweep: a debug run is never ranked, so its page would be empty; debug one of its runs "
            "without -m"
        )


def should_run(config: DictConfig, record: RunRecord) -> bool:
    """Return whether a job is still to run, judged by its folder; set `ckpt_path` where it resumes an interrupted run.

    In a sweep, a finished job is skipped, a failed one resumes, and one with changed settings restarts. A run that starts or
    restarts has a record without `previous`.

    Raises:
        UserError: the folder of a single run holds another run; or an error of `check_in_sweep`.
    """
    if record.in_sweep:
        check_in_sweep(config, record.run.choices.get("debug"))
    previous, folder, name = record.previous, record.folder, record.folder.path.name
    if previous is None or lies_in(folder, config.ckpt_path):
        return True
    same = previous.run.config_hash == record.run.config_hash and _checkpoints_of(previous) == _checkpoints_of(record)
    if not record.in_sweep and _is_unfinished(previous) and not same:
        advice = "Use another folder, or the settings of that run, which has no checkpoint yet"
        if folder.last_checkpoint.is_file():
            advice = f"Use another folder, or resume it with ckpt_path={folder.last_checkpoint}"
        raise UserError(
            f"hydra.run.dir={folder.path}: holds an unfinished run with other settings: "
            f"{_differences(previous, record)}. {advice}"
        )
    trains = previous.best is not None or "fit" in config.stages
    if not record.in_sweep and previous.status == "finished" and trains:
        raise _finished(folder)
    if same and previous.status in ("finished", "pruned") and record.in_sweep:
        log.info("%s: already finished, skipping", name)
        os.utime(folder.record)  # counts the job as part of the sweep that is running
        return False
    ended = "failed" if previous.status == "failed" else "interrupted"
    if same and _is_unfinished(previous) and folder.last_checkpoint.is_file():
        log.info("%s: %s; resuming from %s", name, ended, folder.last_checkpoint.relative_to(folder.path))
        config.ckpt_path = str(folder.last_checkpoint)
        return True
    if not record.in_sweep and previous.status == "finished":
        log.info("%s: replacing the earlier evaluation in this folder", name)
    elif same:
        log.info("%s: %s before its first checkpoint, restarting", name, ended)
    else:
        log.warning("%s: settings changed, restarting: %s", name, _differences(previous, record))
    record.previous = None
    return True


def _checkpoints_of(record: RunRecord) -> list[str]:
    """Return the typed checkpoints that lie outside the run's folder; they are not among its settings."""
    typed = [o.partition("=")[2].strip("'\"") for o in record.run.overrides if o.lstrip("+").startswith("ckpt_path=")]
    return [path for path in typed if not lies_in(record.folder, path)]


def _differences(before: RunRecord, now: RunRecord) -> str:
    """Describe each changed setting as `optimizer=sgd (was adam)`, including a checkpoint from another folder."""
    old, new = ({**each.run.settings, **each.run.choices} for each in (before, now))
    if old:
        for settings, record in ((old, before), (new, now)):
            settings["ckpt_path"] = next(iter(_checkpoints_of(record)), None)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changed = [f"{quote_override(key, new.get(key))} (was {override_value(old.get(key))})" for key in keys]
    return join_words(changed) if old else "not recorded before"
