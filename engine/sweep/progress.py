"""How far a sweep is: sweep.json in its folder, written when it starts, and the records of its jobs."""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from common.atomic_io import write_json
from common.run_record import read_record
from common.text import duration

FILE = "sweep.json"


class SweepProgress(NamedTuple):
    """A sweep that is running, as each of its processes knows it."""

    folder: Path
    command: list[str]  # as typed
    jobs: int
    started_at: float  # seconds since 1970

    @classmethod
    def begin(cls, config: DictConfig, command: list[str]) -> "SweepProgress":
        """Writes the file; `config` has Hydra's own part."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, command, count_jobs(config), time.time())
        write_json(folder / FILE, {"command": made.command, "jobs": made.jobs, "started_at": made.started_at})
        return made

    @classmethod
    def of(cls, folder: Path) -> "SweepProgress | None":
        """The sweep that runs in this folder, or None where that is not known."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(folder, list(content["command"]), int(content["jobs"]), float(content["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def states(self) -> dict[str, tuple[str, bool]]:
        """Job, its status and whether it ran now, of each job that was looked at since the sweep started."""
        found = {}
        for path in self.folder.glob("*/result.json"):
            try:
                if path.stat().st_mtime < self.started_at - 1:  # clocks of file systems tick coarsely
                    continue
                record = read_record(path)
            except (OSError, ValueError):
                continue
            found[path.parent.name] = (
                record["status"],
                (record["run"].get("process_started_at") or 0) >= self.started_at,
            )
        return found

    def in_words(self) -> str:
        """`Sweep: 3 of 8 done, 1 running, 1 failed, about 4 min 10 s left`."""
        states = self.states()
        count = {status: sum(s == status for s, _ in states.values()) for status in ("finished", "running", "failed")}
        ran_now = sum(now and status != "running" for status, now in states.values())
        left = self.jobs - count["finished"] - count["failed"]
        text = f"Sweep: {count['finished']} of {self.jobs} done, {count['running']} running, {count['failed']} failed"
        if left > 0 and ran_now:
            text += f", about {duration((time.time() - self.started_at) / ran_now * left)} left"
        return text

    def not_finished(self) -> list[str]:
        """Jobs of this sweep that have begun and did not come to their end."""
        return sorted(name for name, (status, _) in self.states().items() if status != "finished")


def count_jobs(config: DictConfig) -> int:
    """The product of what is swept, on the command line and in an experiment's file."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    swept = {}
    for override in OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task]):
        swept[override.key_or_group] = len(list(override.sweep_iterator())) if override.is_sweep_override() else 1
    return math.prod(swept.values())
