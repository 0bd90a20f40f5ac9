"""The progress of a sweep: sweep.json in its folder, written at the start, and the records of its jobs."""

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
    """A running sweep, as seen by each of its processes."""

    folder: Path
    command: list[str]  # as typed
    jobs: int
    started_at: float  # seconds since 1970
    before: dict[str, list] = {}  # job -> its record's version at the start, and when that record's process started

    @classmethod
    def begin(cls, config: DictConfig, command: list[str]) -> "SweepProgress":
        """Write sweep.json; `config` includes the section hydra."""
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
        """Return the sweep that runs in this folder, or None if unknown."""
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
        """Return the records' outcomes; only changed records are read again, since each of a thousand jobs asks."""
        outcomes = (_outcome(path, stat.st_mtime_ns, stat.st_size) for path, stat in self._files())
        return [each for each in outcomes if each is not None]

    def has_run(self, job: str, process_started_at: float | None) -> bool:
        """Return whether a job ran in this sweep; the record of a skipped job is unchanged."""
        return process_started_at != self.before.get(job, (None, None))[1]

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the records that were written or touched since; found by version, since clocks differ and change."""
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
        if left > 0 and ran_now and elapsed_s > 0:  # otherwise the clock was set back
            text += f", about {duration(elapsed_s / ran_now * left)} left"
        return text

    def unfinished(self) -> list[str]:
        """Return the names of this sweep's jobs that started, did not finish, and do not run in another process."""
        names = sorted(each.name for each in self.outcomes() if each.status != "finished")
        return [name for name in names if not _is_locked(RunFolder(self.folder / name))]

    def is_training(self, beside: Path | None = None) -> bool:
        """Return whether any process runs a job of this sweep, other than the job in the folder `beside`."""
        folders = (path.parent for path in self.folder.glob("*/result.json"))
        return any(folder != beside and _is_locked(RunFolder(folder)) for folder in folders)


class Outcome(NamedTuple):
    """What a job's record says about its end."""

    name: str
    status: str
    process_started_at: float | None


def _is_locked(folder: RunFolder) -> bool:
    """Return whether a process runs the job in this folder."""
    if not folder.lock.is_file():
        return False
    with folder_lock(folder) as is_free:
        return not is_free


def _find_records(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*/result.json"):
        with contextlib.suppress(OSError):  # removed meanwhile
            yield path, path.stat()


@functools.lru_cache(maxsize=100_000)
def _outcome(path: Path, mtime_ns: int, size: int) -> Outcome | None:
    """Return the outcome in a record; cached by its version."""
    record = _read(path)
    return record and Outcome(record.folder.path.name, record.status, record.run.process_started_at)


def _read(path: Path) -> RunRecord | None:
    try:
        return RunRecord.read(RunFolder(path.parent))
    except (OSError, UserError):
        return None


def count_jobs(config: DictConfig) -> int:
    """Return the number of jobs: the product of the numbers of swept values."""
    return math.prod(map(len, swept_values(config).values()))
