"""Which sweep or search a run belongs to: a page about a folder with many of them has a section for each."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.search_record import FILE as SEARCH_FILE
from common.search_record import SearchRecord
from common.smallest_record import FILE as SMALLEST
from common.smallest_record import SmallestRecord
from common.text import clean

PAGE = "report.html"  # in the folder of a sweep, a search or other runs
SWEEP, SEARCH = "sweep.json", (SEARCH_FILE, "study.db")  # what a sweep and a search leave in their folders
OF_SMALLEST = {"runs": "its runs", "test": "its runs on test"}  # subfolders of a smallest.py search
LONGEST = 60  # characters of a name
MOST_SENTENCES, LONGEST_SENTENCE = 12, 1000  # of the answer of a smallest.py search


class Study(NamedTuple):
    """The runs of one command: their folder, and their title in headings."""

    folder: Path
    title: str

    @property
    def page(self) -> Path:
        """The page that the command wrote at its end."""
        is_part = self.folder.name in ("retrained", *OF_SMALLEST) and not (self.folder / SWEEP).is_file()
        return (self.folder.parent if is_part else self.folder) / PAGE

    @property
    def has_own_answer(self) -> bool:
        """Whether these are runs of smallest.py, whose question must not be answered again from them.

        Some of them were stopped early in its race or trained on folds.
        """
        return self.folder.name in OF_SMALLEST and (self.folder.parent / SMALLEST).is_file()

    def read_own_answer(self) -> list[str]:
        """Return the sentences of smallest.py's answer, or why there are none."""
        try:
            found = SmallestRecord.read(self.folder.parent).answer
        except UserError as error:
            return [f"The answer of this search cannot be read ({clean(str(error), LONGEST_SENTENCE)})."]
        sentences = found.sentences[:MOST_SENTENCES] if found else []
        return [text for each in sentences if (text := clean(each, LONGEST_SENTENCE).strip())] or [
            "This search has no answer yet."
        ]


@cache
def study_of(folder: Path) -> Study | None:
    """Return the study whose runs lie in this folder, recognized by the files of sweep, search and smallest.py; else None."""
    name, above = clean(folder.name, LONGEST), folder.parent
    above_name = clean(above.name, LONGEST)
    if folder.name in ("trials", "retrained") and any((above / file).is_file() for file in SEARCH):
        return Study(folder, f"Search {above_name}, {name}")
    if folder.name in OF_SMALLEST and (above / SMALLEST).is_file():
        return Study(folder, f"smallest.py {above_name}, {OF_SMALLEST[folder.name]}")
    return Study(folder, f"Sweep {name}") if (folder / SWEEP).is_file() else None


def search_of(folder: Path) -> Path | None:
    """Return the folder of the search that all runs below a folder belong to, or None."""
    return next((each for each in (folder, *folder.parents[:2]) if (each / SEARCH_FILE).is_file()), None)


def search_that_retrained(run: Path) -> SearchRecord | None:
    """Return the record of the search that selected the settings of the run in a folder; None if there is none to read."""
    folder = run.absolute().parent
    try:
        return SearchRecord.read(folder.parent) if folder.name == "retrained" else None
    except (UserError, OSError):  # no search, or a damaged record, which the page names
        return None


def study_below(run: Path, given: Sequence[Path]) -> Study | None:
    """Return the study of the run in a folder if the study's folder lies below a given one; None if it is itself given.

    Runs of folders that were given themselves are compared with one another.
    """
    folder = run.absolute().parent
    return study_of(folder) if any(place in folder.parents for place in given) else None
