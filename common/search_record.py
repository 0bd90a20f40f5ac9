"""search.json, which search.py writes for its pages: its trials in order, and which settings mattered."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from common.atomic_io import write_json
from common.untrusted.json_files import read_json, to_type

FILE = "search.json"
LARGEST = 16 * 2**20  # bytes; a trial takes about 200


@dataclass(kw_only=True)
class SearchTrial:
    """One trial: a run, selected or not."""

    state: Literal["finished", "pruned", "failed", "running", "waiting"]
    values: list[float | None] = field(default_factory=list)
    """Value of each objective; empty if the trial did not finish."""
    name: str = ""
    """Its settings, such as `optimizer=adam optimizer.lr=0.001`."""
    folder: str = ""
    """Folder of its run, below `trials`."""


@dataclass(kw_only=True)
class SearchRecord:
    """The state of a search."""

    name: str
    objectives: list[str]
    """Keys of the objectives, such as `val.accuracy`."""
    maximize: list[bool]
    """Whether more is better, for each objective."""
    trials: list[SearchTrial]
    """In the order in which they were proposed."""
    importance: dict[str, float] = field(default_factory=dict)
    """Share of each searched setting according to Optuna's PED-ANOVA, the largest first; they sum to 1."""
    no_importance: str | None = None
    """Why there are no shares."""

    def write(self, folder: Path) -> None:
        """Write search.json."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "SearchRecord":
        """Read search.json; raise UserError if it is missing, damaged or of another form."""
        path = folder / FILE
        return to_type(read_json(path, LARGEST), cls, path)
