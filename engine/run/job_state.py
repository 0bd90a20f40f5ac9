"""Decide what an earlier run in a job's folder means for the job: skip it, resume it, restart it or refuse."""

import logging
import os
import shutil

from omegaconf import DictConfig

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunInfo, RunRecord
from common.text import join_words

log = logging.getLogger(__name__)


def is_interrupted_run(folder: RunFolder) -> bool:
    """Return whether a run was interrupted or failed in this folder and can resume; a command names it for a run of its own.

    Raises:
        UserError: a run was finished there.
    """
    if not folder.record.is_file():
        return False
    try:
        record = RunRecord.read(folder)
    except UserError:
        return False
    if record.status == "finished":
        raise UserError(
            f"hydra.run.dir={folder.path}: holds a finished run; use another folder, or 'stages=[test]' "
            f"ckpt_path={folder.best_checkpoint} to evaluate it again"
        )
    return _is_unfinished(record)


def _is_unfinished(record: RunRecord) -> bool:
    """Return whether a run was interrupted, or failed after its first checkpoint."""
    return record.status == "running" or (record.status == "failed" and record.folder.last_checkpoint.is_file())


def should_run(config: DictConfig, record: RunRecord, *, in_sweep: bool) -> bool:
    """Return whether a job is still to run, judged by what is in its folder; an interrupted one resumes (`ckpt_path`).

    In a sweep a finished job is skipped; one that failed resumes, too; one that has other settings restarts.

    Raises:
        UserError: a single run whose folder holds another one; or a sweep whose jobs would start further processes with
            the command line of the sweep.
    """
    if in_sweep and str(config.trainer.strategy).startswith("ddp"):
        raise UserError(
            "trainer=ddp in a sweep: each of its processes would start the whole sweep again. Use one "
            "device a job (trainer=auto), or start the runs one by one without -m"
        )
    if in_sweep and (choice := record.run.choices.get("debug")):
        raise UserError(
            f"debug={choice} in a sweep: a debug run is never ranked, and its page would be empty; debug one of its runs "
            "without -m"
        )
    previous, folder, name = record.previous, record.folder, record.folder.path.name
    if previous is None or config.ckpt_path is not None:
        return True
    same = previous.run.config_hash == record.run.config_hash
    if not in_sweep and _is_unfinished(previous) and not same:
        record.writes = False  # result.json belongs to the other run
        raise UserError(
            f"hydra.run.dir={folder.path}: holds a run that did not finish, with other settings: "
            f"{_differences(previous.run, record.run)}. Use another folder, or resume it with "
            f"ckpt_path={folder.last_checkpoint}"
        )
    if same and previous.status in ("finished", "pruned"):
        log.info("%s: already finished, skipping", name)
        os.utime(folder.record)  # belongs to the sweep that is running now
        return False
    ended = "failed" if previous.status == "failed" else "interrupted"
    if same and _is_unfinished(previous) and folder.last_checkpoint.is_file():
        log.info("%s: %s; resuming from %s", name, ended, folder.last_checkpoint.relative_to(folder.path))
        config.ckpt_path = str(folder.last_checkpoint)
        return True
    if same:
        log.info("%s: %s before its first checkpoint, restarting", name, ended)
    else:
        log.warning("%s: settings changed, restarting: %s", name, _differences(previous.run, record.run))
    if record.writes:
        _empty(folder, keep_as=previous.run.config_hash if previous.status == "finished" else None)
    record.discard_previous()
    return True


def _differences(before: RunInfo, now: RunInfo) -> str:
    """Describe each changed setting: `optimizer=sgd (was adam)`."""
    old, new = ({**each.settings, **each.choices} for each in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return join_words([f"{key}={new.get(key)} (was {old.get(key)})" for key in keys]) if old else "not recorded before"


def _empty(folder: RunFolder, keep_as: str | None) -> None:
    """Remove what an earlier run left; with `keep_as` move it beside the sweep, to SWEEP.replaced/JOB-HASH.

    The log, .hydra and the lock are those of the command that is running.
    """
    job = folder.path
    place = job.parent.with_name(f"{job.parent.name}.replaced") / f"{job.name}-{keep_as}" if keep_as else None
    if place:
        place.mkdir(parents=True, exist_ok=True)
        log.info("%s: the earlier run is kept in %s", job.name, place)
    for path in job.iterdir():
        if path in (folder.hydra, folder.log, folder.lock):
            continue
        if place:
            path.replace(place / path.name)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
