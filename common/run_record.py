"""result.json, the record of a run: the only thing that reports read besides a run's tables."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import time
from datetime import datetime
from pathlib import Path

from common.atomic_io import check_size, write_json
from common.run_folder import OUTPUTS, PROJECT
from common.text import finite_number

log = logging.getLogger(__name__)

SCHEMA = 1
LARGEST = 16 * 2**20  # bytes; the confusion matrices of a thousand classes are 4 MiB
STATES = ("finished", "failed", "running", "pruned")
# What a run that goes on and a report rely on; null or absent is right too
TYPED = (
    ("run", "seed", int), ("run", "config_hash", str), ("run", "process_started_at", int | float), ("data", "fold", int),
    ("test", "test_evaluations", int),
)  # fmt: skip
SECTIONS = ("run", "data", "model", "best", "decision", "val", "test", "throughput")
PLACES = {"ckpt_path", "datamodule.cache", "datamodule.cache_max_gib", "datamodule.gpu_cache_gib"}
REPEATS = {"seed", "datamodule.fold"}
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "thop", "numpy", "pillow")


class RunRecord:
    """Grows with the run and is written at its start (status `running`), once training begins, on failure and at its end.

    Sections: run, data, model, best, decision, val, test, throughput; a section stays null where its stage did not run.
    """

    def __init__(self, folder: Path, *, command: list[str], overrides: list[str], write: bool = True):
        self.folder = folder
        self.writes = write
        self._started = time.perf_counter()
        self.earlier = _earlier_record(folder)  # of the run that this one goes on with
        self.run = {
            "name": _run_name(folder),
            "command": shlex.join(command),
            "overrides": overrides,
            "seed": None,
            "choices": {},
            "settings": {},
            "config_hash": None,
            "started_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "process_started_at": time.time(),  # seconds since 1970
            "wall_time_s": None,
            **_git(),
            "versions": {"python": platform.python_version(), **_versions()},
            "device": None,
            "processes": None,
            "threads": None,  # of each process
            "warnings": [],
        }
        self.data = self.model = self.best = self.decision = self.val = self.test = self.throughput = None

    @property
    def earlier_openings(self) -> int:
        """How often this training's test split was opened before."""
        return int((self.earlier.get("test") or {}).get("test_evaluations") or 0)

    @property
    def was_stopped(self) -> bool:
        """Whether the run before in this folder did not come to its end."""
        return self.earlier.get("status") == "running"

    def forget(self) -> None:
        """The run before in this folder is not the same: nothing of it is taken over."""
        self.earlier = {}

    def stop(self, warnings: list[str]) -> None:
        """A signal ended the run; it can go on."""
        self.run["warnings"] = warnings
        self._write("running", reason=None)

    def start(self) -> None:
        """Writes what is known so far."""
        self._write("running", reason=None)

    def describe(self, settings: dict, choices: dict[str, str | None]) -> None:
        """The configuration as composed: every setting by its dotted key, and which file each group took.

        What says where files lie is left out. Two runs of one `config_hash` would do the same; runs that differ in
        REPEATS alone are repetitions of one another.
        """
        self.run["seed"] = settings["seed"]
        self.run["choices"] = {group: choice for group, choice in choices.items() if group.isidentifier()}
        self.run["settings"] = {k: v for k, v in flat(settings).items() if k not in PLACES}
        self.run["config_hash"] = digest(self.run["settings"], self.run["choices"])

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

    def prune(self, reason: str, warnings: list[str]) -> None:
        """A search ended the run before its end, since it was behind others."""
        self.run["warnings"] = warnings
        self._write("pruned", reason=reason)

    def _write(self, status: str, reason: str | None) -> None:
        earlier_s = finite_number((self.earlier.get("run") or {}).get("wall_time_s")) or 0
        self.run["wall_time_s"] = round(earlier_s + time.perf_counter() - self._started, 2)
        content = {"schema": SCHEMA, "status": status, **({"reason": reason} if reason else {})}
        for section in SECTIONS:
            content[section] = getattr(self, section)
        if self.writes:
            write_json(self.folder / "result.json", content)


def read_record(path: Path) -> dict:
    """The record in a file: a section is null, absent or a mapping, and `run` is one.

    Raises:
        ValueError: too large, cut off, of another schema, or with values that no run writes; with file and key.
    """
    check_size(path, LARGEST)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole_number, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a whole record (not UTF-8); run it again, or delete the folder") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole record ({error}); run it again, or delete the folder") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: a record of schema {str(found)[:60]}; this version reads schema {SCHEMA}")
    for section in SECTIONS:
        if not isinstance(content.get(section), dict | None):
            raise odd(path, section, content[section])
    if content.get("status") not in STATES:
        raise odd(path, "status", content.get("status"))
    if content.get("run") is None:
        raise odd(path, "run", None)
    for section, key, kind in TYPED:
        value = (content.get(section) or {}).get(key)
        if not isinstance(value, kind | None) or isinstance(value, bool):
            raise odd(path, f"{section}.{key}", value)
    if not re.fullmatch("[0-9a-f]*", content["run"].get("config_hash") or ""):  # names a folder
        raise odd(path, "run.config_hash", content["run"]["config_hash"])
    return content


def odd(path: Path, key: str, value: object) -> ValueError:
    return ValueError(f"{path}: {key} is {str(value)[:60]!r}, which no run writes; run it again, or delete the folder")


def _whole_number(digits: str) -> int:
    if len(digits) > 25:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _no_number(word: str) -> None:
    raise ValueError(f"{word}, which is not JSON")


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one level of dotted keys; keys that begin with _ are left out."""
    lines = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            lines |= flat(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            lines[f"{prefix}{key}"] = value
    return lines


def digest(settings: dict, choices: dict) -> str:
    """16 hex digits that name a configuration."""
    text = json.dumps([sorted(settings.items()), sorted(choices.items())], default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def increment_test_evaluations(folder: Path) -> int | None:
    """Counts one more opening of the test split in the record of the run that was trained in this folder.

    Returns the number, or None where that run has no record.
    """
    content = _earlier_record(folder)
    if not content:
        return None
    content["test"] = content.get("test") or {}
    content["test"]["test_evaluations"] = (content["test"].get("test_evaluations") or 0) + 1
    write_json(folder / "result.json", content)
    return content["test"]["test_evaluations"]


def describe_test_evaluations(opened: int) -> str:
    """Said whenever it was not the first time."""
    return f"the test split was opened for the {opened}. time with this training; its first figure is the honest one"


def _earlier_record(folder: Path) -> dict:
    """What a run left in this folder before; empty where there is none, or none that can be read."""
    path = folder / "result.json"
    if not path.is_file():
        return {}
    try:
        return read_record(path)
    except ValueError as error:
        log.warning("what the run had recorded before is not known: %s", error)
        return {}


def _run_name(folder: Path) -> str:
    return folder.relative_to(OUTPUTS).as_posix() if OUTPUTS in folder.parents else folder.name


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
