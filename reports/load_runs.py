"""Records found below folders: those that can be read, and those that cannot, with the reason."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.run_record import SECTIONS, odd, read_record

EXAMPLE = "e.g. runs=outputs/sweeps/NAME"


class Run(NamedTuple):
    """A folder and its record, which has all sections and in `run` all keys that reports read."""

    folder: Path
    record: dict

    @property
    def seed(self) -> int | None:
        return self.record["run"]["seed"]

    @property
    def fold(self) -> int | None:
        return (self.record["data"] or {}).get("fold")

    @property
    def name(self) -> str:
        return self.record["run"]["name"]


class LoadedRuns(NamedTuple):
    """The runs that can be read, by folder, and the folders left out with the reason."""

    runs: list[Run]
    excluded: list[tuple[str, str]]


def find_records(where: str | Sequence[str] | None) -> list[Path]:
    """The records below a folder, several folders, or what a pattern with * fits; each once, sorted.

    Raises:
        ValueError: nothing given, no such folder, or no record in it.
    """
    places = [where] if isinstance(where, (str, Path)) else list(where or [])
    if not places:
        raise ValueError(f"runs: nothing is given; give the folder of a sweep or of runs, {EXAMPLE}")
    found = {}
    for place in map(str, places):
        folders = [Path(place)]
        if glob.has_magic(place) and not Path(place).exists():
            folders = [Path(path) for path in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207 absolute ones too
        if not folders or not all(folder.exists() for folder in folders):
            raise ValueError(f"runs={place}: no such folder; give the one that train.py printed at its end, {EXAMPLE}")
        for folder in folders:
            paths = [folder] if folder.name == "result.json" else sorted(folder.rglob("result.json"))
            found |= {path.resolve(): path for path in paths}
    if not found:
        raise ValueError(f"runs={', '.join(map(str, places))}: no result.json in it or below; {EXAMPLE}")
    return list(found.values())


def load_runs(paths: Sequence[Path]) -> LoadedRuns:
    """Reads records; one that is cut off, odd or of another schema is left out with the reason.

    Raises:
        ValueError: none is left.
    """
    runs, excluded = [], []
    for path in paths:
        try:
            runs.append(Run(path.parent, _completed(read_record(path), path)))
        except ValueError as error:
            excluded.append((str(path.parent), str(error)))
        except OSError as error:
            excluded.append((str(path.parent), f"{path}: cannot be read: {error.strerror}"))
    if not runs:
        raise ValueError(f"runs: none of {len(excluded):,} records can be read; the first: {excluded[0][1]}")
    return LoadedRuns(runs, excluded)


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that holds all of these records."""
    parents = [path.parent.absolute() for path in paths]
    first, *others = parents
    return next(p for p in (first, *first.parents) if all(p == other or p in other.parents for other in others))


def _completed(record: dict, path: Path) -> dict:
    """The record with every section, and every key of `run` that reports rely on.

    Raises:
        ValueError: a value of another kind than a run writes.
    """
    for section in SECTIONS:
        record.setdefault(section, None)
    run = record["run"]
    empty = {"name": path.parent.name, "overrides": [], "choices": {}, "settings": {}, "warnings": [], "versions": {}}
    for key, value in empty.items():
        if not isinstance(run.setdefault(key, value), type(value)):
            raise odd(path, f"run.{key}", run[key])
    run.setdefault("seed", None)
    return record
