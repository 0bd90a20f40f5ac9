"""How far a sweep is: sweep.json in its folder, written when it starts, and the records of its jobs."""

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from common.atomic_io import write_json
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.text import duration
from engine.run.job import folder_lock
from engine.sweep.seeds import swept_values

FILE = "sweep.json"


class SweepProgress(NamedTuple):
    """A running sweep, as each of its processes knows it."""

    folder: Path
    command: list[str]  # as typed
    jobs: int
    started_at: float  # seconds since 1970
    before: dict[str, list] = {}  # job -> version of the record that it had then, and when the process of that started

    @classmethod
    def begin(cls, config: DictConfig, command: list[str]) -> "SweepProgress":
        """Write sweep.json; `config` has Hydra's own part."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        before = {}
        for path, stat in _find_records(folder):
            outcome = _outcome(path, stat.st_mtime_ns, stat.st_size)
            before[path.parent.name] = [stat.st_mtime_ns, outcome and outcome.process_started_at]
        progress = cls(folder, command, count_jobs(config), time.time(), before)
        write_json(folder / FILE, {name: value for name, value in progress._asdict().items() if name != "folder"})
        return progress

    @classmethod
    def of(cls, folder: Path) -> "SweepProgress | None":
        """Return the sweep that runs in this folder, or None where that is not known."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            command, before = list(content["command"]), dict(content["before"])
            return cls(folder, command, int(content["jobs"]), float(content["started_at"]), before)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def records(self) -> list[RunRecord]:
        """Read the record of each job that ran or was skipped since the sweep started."""
        return [record for path, _ in self._files() if (record := _read(path)) is not None]

    def outcomes(self) -> list["Outcome"]:
        """Return the same in short; a record is read again only where it has changed, since each of a thousand jobs asks."""
        outcomes = (_outcome(path, stat.st_mtime_ns, stat.st_size) for path, stat in self._files())
        return [each for each in outcomes if each is not None]

    def has_run(self, job: str, process_started_at: float | None) -> bool:
        """Return whether the record of a job is of this sweep; that of a skipped one is as it was."""
        return process_started_at != self.before.get(job, (None, None))[1]

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the records that were written or marked since; not by their times, since clocks differ and are set."""
        for path, stat in _find_records(self.folder):
            if stat.st_mtime_ns != self.before.get(path.parent.name, (None,))[0]:
                yield path, stat

    def describe(self) -> str:
        """Return `Sweep: 3 of 8 done, 1 running, 1 failed, about 4 min 10 s left`."""
        outcomes = self.outcomes()
        finished, running, failed = (
            sum(each.status == status for each in outcomes) for status in ("finished", "running", "failed")
        )
        ended = [each for each in outcomes if each.status != "running"]
        ran_now = sum(self.has_run(each.name, each.process_started_at) for each in ended)
        left = self.jobs - finished - failed
        text = f"Sweep: {finished} of {self.jobs} done, {running} running, {failed} failed"
        elapsed_s = time.time() - self.started_at
        if left > 0 and ran_now and elapsed_s > 0:  # else the clock was set back
            text += f", about {duration(elapsed_s / ran_now * left)} left"
        return text

    def unfinished(self) -> list[str]:
        """Return the names of the jobs of this sweep that started, did not finish, and are not run by another process."""
        names = sorted(each.name for each in self.outcomes() if each.status != "finished")
        return [name for name in names if not _is_locked(RunFolder(self.folder / name))]

    def is_training(self, beside: Path | None = None) -> bool:
        """Return whether a process runs a job of this sweep; `beside`: other than the one in this folder."""
        folders = (path.parent for path in self.folder.glob("*/result.json"))
        return any(folder != beside and _is_locked(RunFolder(folder)) for folder in folders)


class Outcome(NamedTuple):
    """What the record of a job says of its end."""

    name: str
    status: str
    process_started_at: float | None


def _is_locked(folder: RunFolder) -> bool:
    """Return whether a process runs the job of this folder."""
    if not folder.lock.is_file():
        return False
    with folder_lock(folder) as is_free:
        return not is_free


def _find_records(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*/result.json"):
        with contextlib.suppress(OSError):  # removed in between
            yield path, path.stat()


@functools.lru_cache(maxsize=100_000)
def _outcome(path: Path, mtime_ns: int, size: int) -> Outcome | None:
    """Return the outcome in a record of this version."""
    record = _read(path)
    return record and Outcome(record.folder.path.name, record.status, record.run.process_started_at)


def _read(path: Path) -> RunRecord | None:
    try:
        return RunRecord.read(RunFolder(path.parent))
    except (OSError, UserError):
        return None


def count_jobs(config: DictConfig) -> int:
    """Multiply the numbers of values of what is swept."""
    return math.prod(map(len, swept_values(config).values()))
