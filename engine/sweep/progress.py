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

    @classmethod
    def begin(cls, config: DictConfig, command: list[str]) -> "SweepProgress":
        """Write sweep.json; `config` has Hydra's own part."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        progress = cls(folder, command, count_jobs(config), time.time())
        write_json(folder / FILE, {name: value for name, value in progress._asdict().items() if name != "folder"})
        return progress

    @classmethod
    def of(cls, folder: Path) -> "SweepProgress | None":
        """Return the sweep that runs in this folder, or None where that is not known."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(folder, list(content["command"]), int(content["jobs"]), float(content["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def records(self) -> list[RunRecord]:
        """Read the record of each job that ran or was skipped since the sweep started."""
        return [record for path, _ in self._files() if (record := _read(path)) is not None]

    def outcomes(self) -> list["Outcome"]:
        """Return the same in short; a record is read again only where it has changed, since each of a thousand jobs asks."""
        outcomes = (_outcome(path, stat.st_mtime_ns, stat.st_size) for path, stat in self._files())
        return [each for each in outcomes if each is not None]

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*/result.json"):
            with contextlib.suppress(OSError):  # removed in between
                stat = path.stat()
                if stat.st_mtime >= self.started_at - 1:  # clocks of file systems tick coarsely
                    yield path, stat

    def describe(self) -> str:
        """Return `Sweep: 3 of 8 done, 1 running, 1 failed, about 4 min 10 s left`."""
        outcomes = self.outcomes()
        finished, running, failed = (
            sum(each.status == status for each in outcomes) for status in ("finished", "running", "failed")
        )
        ended = [each for each in outcomes if each.status != "running"]
        ran_now = sum((each.process_started_at or 0) >= self.started_at for each in ended)  # not skipped
        left = self.jobs - finished - failed
        text = f"Sweep: {finished} of {self.jobs} done, {running} running, {failed} failed"
        if left > 0 and ran_now:
            text += f", about {duration((time.time() - self.started_at) / ran_now * left)} left"
        return text

    def unfinished(self) -> list[str]:
        """Return the names of the jobs of this sweep that started and did not finish."""
        return sorted(each.name for each in self.outcomes() if each.status != "finished")

    def is_training(self, beside: Path | None = None) -> bool:
        """Return whether a process runs a job of this sweep; `beside`: other than the one in this folder."""
        for path in self.folder.glob("*/result.json"):
            folder = RunFolder(path.parent)
            if path.parent != beside and folder.lock.is_file():
                with folder_lock(folder) as is_free:
                    if not is_free:
                        return True
        return False


class Outcome(NamedTuple):
    """What the record of a job says of its end."""

    name: str
    status: str
    process_started_at: float | None


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
