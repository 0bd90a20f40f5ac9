"""What an earlier run in a job's folder means for the job."""

import logging
import os
import shutil
from pathlib import Path

from omegaconf import DictConfig

from common.run_record import RunRecord, read_record
from common.text import join_words

log = logging.getLogger(__name__)

LAST = "checkpoints/last.ckpt"
KEPT = {".hydra", "train.log"}  # of the command that is running, not of the run before it


def is_interrupted_run(folder: Path) -> bool:
    """Whether a run was stopped in this folder, which a command names for a run of its own.

    Raises:
        ValueError: a run was finished there.
    """
    path = folder / "result.json"
    if not path.is_file():
        return False
    try:
        status = read_record(path)["status"]
    except (ValueError, KeyError):
        return False
    if status == "finished":
        raise ValueError(
            f"hydra.run.dir={folder}: holds a finished run; use another folder, or 'stages=[test]' "
            f"ckpt_path={folder / 'checkpoints/best.ckpt'} to measure it again"
        )
    return status == "running"


def should_run(config: DictConfig, record: RunRecord, *, one_of_many: bool) -> bool:
    """Whether a job is still to do, after what is in its folder. Stopped in the middle, it goes on.

    One of many that was finished is left alone; that failed or has changed begins anew.

    Raises:
        ValueError: a single run whose folder holds another one; or one of many would start further processes with the
            sweep's own command line.
    """
    if one_of_many and str(config.trainer.strategy).startswith("ddp"):
        raise ValueError(
            "trainer=ddp in a sweep: each of its processes would start the whole sweep again. Use one "
            "device a job (trainer=auto), or start the runs one by one without -m"
        )
    earlier, name = record.earlier, record.folder.name
    if not earlier or config.ckpt_path is not None:
        return True
    before = earlier["run"] or {}
    last = record.folder / LAST
    same = before.get("config_hash") == record.run["config_hash"]
    if not one_of_many and earlier["status"] == "running" and not same:
        record.writes = False  # it is the other run's
        raise ValueError(
            f"hydra.run.dir={record.folder}: holds a run that was stopped, with other settings: "
            f"{_differences(before, record.run)}. Use another folder, or ckpt_path={last} to go on with it"
        )
    if same and earlier["status"] in ("finished", "pruned"):
        log.info("%s: done before", name)
        os.utime(record.folder / "result.json")  # belongs to the sweep that is running now
        return False
    if same and earlier["status"] == "running" and last.is_file():
        log.info("%s: was stopped, goes on from %s", name, LAST)
        config.ckpt_path = str(last)
        return True
    if same:
        log.info("%s: begins anew, since it %s", name, "failed" if earlier["status"] == "failed" else "was stopped")
    else:
        log.warning("%s: begins anew with other settings: %s", name, _differences(before, record.run))
    if record.writes:
        _empty(record.folder, keep=earlier["status"] == "finished" and before.get("config_hash"))
    record.forget()
    return True


def _differences(before: dict, now: dict) -> str:
    old, new = ({**(each.get("settings") or {}), **(each.get("choices") or {})} for each in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return join_words([f"{key}={new.get(key)} for {old.get(key)}" for key in keys]) if old else "unknown before"


def _empty(folder: Path, keep: str | None) -> None:
    """Takes away what an earlier run left: a finished one goes beside the sweep, into SWEEP.replaced/JOB-HASH."""
    place = folder.parent.with_name(f"{folder.parent.name}.replaced") / f"{folder.name}-{keep}" if keep else None
    if place:
        place.mkdir(parents=True, exist_ok=True)
        log.info("%s: what it left is kept in %s", folder.name, place)
    for path in folder.iterdir():
        if path.name in KEPT:
            continue
        if place:
            path.replace(place / path.name)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
