"""result.json, the record of a run: the only thing that reports read besides a run's tables."""

import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import time
from datetime import datetime
from pathlib import Path

from .files import write_json

log = logging.getLogger(__name__)

SCHEMA = 1
PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "thop", "numpy", "pillow")


class Record:
    """Grows with the run and is written at its start (status `running`), on failure and at its end.

    Sections: run, data, model, best, val, test, throughput; a section stays null where its stage did not run.
    """

    def __init__(self, folder: Path, *, command: list[str], overrides: list[str], write: bool = True):
        self.folder = folder
        self.writes = write
        self._started = time.perf_counter()
        self._earlier_s = _earlier_wall_time_s(folder)
        self.run = {
            "name": _run_name(folder),
            "command": shlex.join(command),
            "overrides": overrides,
            "seed": None,
            "started_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "wall_time_s": None,
            **_git(),
            "versions": {"python": platform.python_version(), **_versions()},
            "device": None,
            "processes": None,
            "threads": None,  # of each process
            "warnings": [],
        }
        self.data = self.model = self.best = self.val = self.test = self.throughput = None
        self._write("running", reason=None)

    def finish(self, warnings: list[str]) -> None:
        """The run did all of its stages."""
        self.run["warnings"] = warnings
        self._write("finished", reason=None)

    def fail(self, reason: str, warnings: list[str]) -> None:
        """The run ended before its end. Where not even that can be written, the log says so."""
        self.run["warnings"] = warnings
        try:
            self._write("failed", reason=reason)
        except OSError as error:
            log.warning("%s: the record of the failure cannot be written: %s", self.folder, error.strerror)

    def _write(self, status: str, reason: str | None) -> None:
        self.run["wall_time_s"] = round(self._earlier_s + time.perf_counter() - self._started, 2)
        content = {"schema": SCHEMA, "status": status, **({"reason": reason} if reason else {})}
        for section in ("run", "data", "model", "best", "val", "test", "throughput"):
            content[section] = getattr(self, section)
        if self.writes:
            write_json(self.folder / "result.json", content)


def read_record(path: Path) -> dict:
    """The record in a file.

    Raises:
        ValueError: cut off, or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole record ({error}); run it again, or delete the folder") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: a record of schema {found}; this version reads schema {SCHEMA}")
    return content


def _earlier_wall_time_s(folder: Path) -> float:
    """What a run that goes on in this folder has spent before."""
    path = folder / "result.json"
    if not path.is_file():
        return 0.0
    try:
        return float(read_record(path)["run"]["wall_time_s"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: the time spent before is not known: %s", path, error)
        return 0.0


def _run_name(folder: Path) -> str:
    outputs = PROJECT / "outputs"
    return folder.relative_to(outputs).as_posix() if outputs in folder.parents else folder.name


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _git() -> dict:
    """The commit that the code is at; null where it is not a clone or there is no git."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()

    try:
        return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
