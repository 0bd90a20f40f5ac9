"""One job, alone, of a sweep or of a search: what is done before, its record, and what becomes of an error."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from reports.records import Record
from reports.words import listed

from . import console, errors
from .going_on import take_up

log = logging.getLogger(__name__)

LAST = "checkpoints/last.ckpt"
KEPT = {".hydra", "train.log"}  # of the command that is running, not of the run before it


class Pruned(Exception):  # noqa: N818 it is no error
    """A search ends a run before its end; the text says why."""


class Job(NamedTuple):
    """What is known of a job before it runs."""

    folder: Path
    command: list[str]  # as typed
    overrides: list[str]
    choices: dict[str, str | None]  # which file each group took
    one_of_many: bool  # a sweep's or a search's


def perform(job: Job, config: DictConfig, run: Callable[[DictConfig, Record], None]) -> Exception | None:
    """Runs a job whose config is composed, unless it is one of many and was finished before.

    Returns the error that it ended with, or that a search has ended it, recorded and not raised: the other jobs go on.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if rank:
        logging.disable(logging.WARNING)
    warnings.showwarning = console.show_warning  # of this process, which may be one that a launcher started
    warning_list = console.WarningList()
    logging.getLogger().addHandler(warning_list)
    record = None
    try:
        with alone_in(job.folder, rank) as alone:
            if not alone and job.one_of_many:
                log.info("%s: another process is at it", job.folder.name)
                return None
            if not alone:
                raise ValueError(f"{job.folder}: another process is training in this folder; wait for it or stop it")
            record = Record(job.folder, command=job.command, overrides=job.overrides, write=rank == 0)
            config = take_up(config, job.overrides, job.folder)
            record.describe(OmegaConf.to_container(config, resolve=False), job.choices)
            if job.one_of_many and not _is_to_do(job, config, record):
                return None
            record.start()
            run(config, record)
            record.finish(warning_list.messages)
        return None
    except Pruned as pruned:
        record.prune(str(pruned), warning_list.messages)
        return pruned
    except Exception as error:
        message = errors.for_user(error)
        if record is not None:
            record.fail(message or f"{type(error).__name__}: {error}", warning_list.messages)
        if job.one_of_many:
            log.error("%s: %s", job.folder.name, message or error, exc_info=message is None)
        return error
    finally:
        logging.getLogger().removeHandler(warning_list)


def _is_to_do(job: Job, config: DictConfig, record: Record) -> bool:
    """Whether one of many is still to do. Stopped in the middle, it goes on; failed or changed, it begins anew.

    Raises:
        ValueError: it would start further processes with the sweep's own command line.
    """
    if str(config.trainer.strategy).startswith("ddp"):
        raise ValueError(
            "trainer=ddp in a sweep: each of its processes would start the whole sweep again. Use one "
            "device a job (trainer=auto), or start the runs one by one without -m"
        )
    earlier, name = record.earlier, job.folder.name
    if not earlier:
        return True
    before = earlier["run"] or {}
    same = before.get("config_hash") == record.run["config_hash"]
    if same and earlier["status"] in ("finished", "pruned"):
        log.info("%s: done before", name)
        os.utime(job.folder / "result.json")  # belongs to the sweep that is running now
        return False
    last = job.folder / LAST
    if same and earlier["status"] == "running" and last.is_file() and config.ckpt_path is None:
        log.info("%s: was stopped, goes on from %s", name, LAST)
        config.ckpt_path = str(last)
        return True
    if same:
        log.info("%s: begins anew, since it %s", name, "failed" if earlier["status"] == "failed" else "was stopped")
    else:
        log.warning("%s: begins anew with other settings: %s", name, _differences(before, record.run))
    _empty(job.folder, keep=earlier["status"] == "finished" and before.get("config_hash"))
    record.forget()
    return True


def _differences(before: dict, now: dict) -> str:
    old, new = ({**(each.get("settings") or {}), **(each.get("choices") or {})} for each in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return listed([f"{key}={new.get(key)} for {old.get(key)}" for key in keys]) if old else "unknown before"


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


@contextlib.contextmanager
def alone_in(folder: Path, rank: int) -> Iterator[bool]:
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
