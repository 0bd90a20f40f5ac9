"""Find and read the records below folders: those that can be read, and the excluded ones with the reason."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import DataInfo, ModelInfo, RunRecord
from common.text import clean
from reports.studies import Study, study_below

LONGEST_REASON = 200  # characters
EXAMPLE = "e.g. runs=outputs/sweeps/NAME"


class Run(NamedTuple):
    """A run: its folder and its record."""

    folder: RunFolder
    record: RunRecord
    study: Study | None = None  # the sweep or search that it belongs to, if a page shows several
    test_folder: RunFolder | None = None  # of the evaluation that its test results come from, if that is another run

    @property
    def name(self) -> str:
        return self.record.run.name

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def seed(self) -> int | None:
        return self.record.run.seed

    @property
    def data(self) -> DataInfo:
        """The record's section; empty if the run did not get as far as its data."""
        return self.record.data or DataInfo()

    @property
    def model(self) -> ModelInfo:
        """The record's section; empty if the run did not get as far as its network."""
        return self.record.model or ModelInfo()

    def folder_of(self, split: str) -> RunFolder:
        """Return the folder with the predictions of a split, test or val."""
        return self.test_folder or self.folder if split == "test" else self.folder

    @property
    def fold(self) -> int | None:
        return self.data.fold

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images chose the epoch."""
        return self.data.select_on == "test"


class LoadedRuns(NamedTuple):
    """The runs with readable records, and the excluded folders with the reason."""

    runs: list[Run]
    excluded: list[tuple[str, str]]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished"]

    @property
    def why_excluded(self) -> list[str]:
        """The reason why each record that is not a finished run is excluded."""
        unfinished = [f"{run.folder.path}: not finished" for run in self.runs if run.status != "finished"]
        return [*unfinished, *(why for _, why in self.excluded)]


def find_records(where: str | Sequence[str] | None) -> list[Path]:
    """Find the records below a folder, below several, or below those that match a pattern with *; each once, sorted.

    Raises:
        UserError: nothing given, no such folder, or no record in it.
    """
    places = [where] if isinstance(where, (str, Path)) else list(where or [])
    if not places:
        raise UserError(f"runs: nothing is given; give the folder of a sweep or of runs, {EXAMPLE}")
    found = {}
    for place in map(str, places):
        folders = _matching(place)
        if not folders or not all(folder.exists() for folder in folders):
            raise UserError(f"runs={place}: no such folder; give the one that train.py printed at its end, {EXAMPLE}")
        for folder in folders:
            name = RunFolder(folder).record.name
            paths = [folder] if folder.name == name else _records_below(folder, name)
            found |= {path.resolve(): path for path in paths}
    if not found:
        raise UserError(f"runs={', '.join(map(str, places))}: no result.json in it or below; {EXAMPLE}")
    return list(found.values())


def _records_below(folder: Path, name: str) -> list[Path]:
    """Return the records below a folder; for an unreadable folder the one it may have, which `load_runs` then excludes."""
    unreadable: list[Path] = []
    walk = os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename)))
    readable = {Path(place) for place, _, files in walk if name in files}
    # A run's own folders and hidden ones, such as checkpoints, .hydra and .cache, are no runs
    unknown = [each for each in unreadable if each.parent not in readable and not _is_hidden(each, folder)]
    paths = sorted(place / name for place in (*readable, *unknown))
    return [path for path in paths if not _is_kept(path, folder)]


def _is_hidden(place: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in place.relative_to(folder).parts)


def given_folders(where: str | Sequence[str]) -> list[Path]:
    """Return the folders that `find_records` searches, absolute."""
    places = [where] if isinstance(where, (str, Path)) else list(where)
    return [folder.absolute() for place in map(str, places) for folder in _matching(place)]


def _matching(place: str) -> list[Path]:
    """Return the folder with this name, or those that match the pattern."""
    if glob.has_magic(place) and not Path(place).exists():
        return [Path(path) for path in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207 absolute ones too
    return [Path(place)]


def _is_kept(path: Path, folder: Path) -> bool:
    """Return whether a record below a folder belongs to a run that was replaced by another and only kept as a backup."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".before-") or part.endswith(".replaced") for part in parts)


def load_runs(paths: Sequence[Path], given: Sequence[Path] = ()) -> LoadedRuns:
    """Read records; exclude, with the reason, debug runs and records that are cut off, damaged or of another schema.

    Args:
        given: the folders that were searched; each sweep or search inside one of them is a study of its own.

    Raises:
        UserError: none can be read, or there are only debug runs.
    """
    runs, excluded = [], []
    for path in paths:
        folder = RunFolder(path.parent)
        try:
            run = Run(folder, RunRecord.read(folder), study_below(path.parent, given))
            if reason := clean(run.record.run.debug or "", LONGEST_REASON):
                excluded.append((str(folder.path), f"{folder.path}: a debug run ({reason}), never ranked"))
            else:
                runs.append(run)
        except UserError as error:
            excluded.append((str(folder.path), str(error)))
        except OSError as error:
            excluded.append((str(folder.path), f"{path}: cannot be read: {error.strerror}"))
    if not runs:
        raise UserError(f"runs: none of {len(excluded):,} records can be used; the first: {excluded[0][1]}")
    return LoadedRuns(runs, excluded)


def load_below(path: Path) -> LoadedRuns:
    """Load the runs below a folder, or one record, given as a command's argument instead of `runs=`; errors as of both."""
    try:
        return load_runs(find_records(str(path)))
    except UserError as error:
        raise UserError(
            str(error).removeprefix("runs=").removeprefix("runs: ").replace(EXAMPLE, "e.g. outputs/MODEL/DATE")
        ) from error


def common_folder(paths: Sequence[Path]) -> Path:
    """Return the folder that holds all of these records."""
    return Path(os.path.commonpath([path.parent.absolute() for path in paths]))
