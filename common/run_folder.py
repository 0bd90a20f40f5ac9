"""The files of a run: their names, and the only reader and writer of splits.csv and metrics.csv."""

import contextlib
import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.atomic_io import atomic_open, write_csv
from common.errors import UserError
from common.untrusted.tables import iterate_csv

PROJECT = Path(__file__).resolve().parent.parent
EXPORTED = (".onnx", ".pt2", ".tflite")  # suffixes of exported files, from which training cannot resume
OUTPUTS = PROJECT / "outputs"

# Any other column of splits.csv names subsets of the images
SPLIT_COLUMNS = ("path", "label", "split", "group", "weight")
REVIEW_COLUMNS = ("predicted", "confidence")  # added by labels_to_check.csv
METRIC_COLUMNS = ("epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr")
SCORE_COLUMNS = ("val/balanced_accuracy", "val/f1", "val/auroc")  # added if something monitors them
FIGURES = ("overview", "calibration", "contact_sheet", "feature_maps", "channel_shuffle")
OF_LOGGERS = ("events.out.tfevents.*", "hparams.yaml", "csv/version_*", "wandb/*run-*")  # written by conf/logger
LARGEST_METRICS = 16 * 2**20  # bytes; some 100,000 epochs
MOST_EPOCHS = 1_000_000


class _Inside:
    """The path of a file or folder in the run's folder."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, folder: "RunFolder", _) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Define the name of every file that a run leaves in its folder."""

    path: Path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFolder | None":
        """Return the folder of the run that a checkpoint belongs to; None if it is not in one."""
        folder = cls(Path(checkpoint).resolve().parent.parent)
        return folder if folder.config.is_file() or folder.record.is_file() else None

    @property
    def name(self) -> str:
        """The folder's path below outputs/, or its own name if it is elsewhere."""
        below = self.path.is_relative_to(OUTPUTS) and self.path != OUTPUTS
        return self.path.relative_to(OUTPUTS).as_posix() if below else self.path.name

    record = _Inside("result.json")
    checkpoints = _Inside("checkpoints")
    best_checkpoint = _Inside("checkpoints/best.ckpt")
    # The network's weights in best.ckpt with its description, for programs that read safetensors
    best_weights = _Inside("checkpoints/best.safetensors")
    last_checkpoint = _Inside("checkpoints/last.ckpt")
    previous_checkpoint = _Inside("checkpoints/last-before.ckpt")  # the last but one, kept while the run trains
    metrics = _Inside("metrics.csv")
    splits = _Inside("splits.csv")
    summary = _Inside("summary.txt")
    model_card = _Inside("MODEL_CARD.md")
    log = _Inside("train.log")
    # Exists and is locked while a process runs in the folder; a killed process leaves it unlocked
    lock = _Inside(".lock")
    # Backups, until the command has done something: before it resumes the run, or starts another one in the folder
    before_resume = _Inside(".before-resume")
    before_restart = _Inside(".before-restart")
    hydra = _Inside(".hydra")
    config = _Inside(".hydra/config.yaml")  # the configuration as it was composed
    choices = _Inside(".hydra/hydra.yaml")  # Hydra's own part of it, with the file that each group uses
    overrides = _Inside(".hydra/overrides.yaml")
    PROFILE = "profile"

    def predictions(self, split: str) -> Path:
        """The CSV table of `test` or `val`; with many classes the run may write `predictions_parquet` instead."""
        return self.path / {"test": "predictions.csv", "val": "predictions_val.csv"}[split]

    def predictions_parquet(self, split: str) -> Path:
        """The parquet table of `test` or `val`, for many classes."""
        return self.predictions(split).with_suffix(".parquet")

    @property
    def profiles(self) -> list[Path]:
        """Files of trainer.profiler: a table for each of fit, validate and test, and traces."""
        return sorted(path for path in self.path.glob(f"*-{self.PROFILE}*") if path.is_file())

    def figure(self, name: str) -> Path:
        """An image that a run draws, by its name without the suffix."""
        return self.path / f"{name}.png"

    def entries(self, whole: bool) -> list[Path]:
        """Return what a run has left here, without its log; with `whole` also files that runs are not known to write."""
        of_commands = {self.log, self.lock, self.before_resume, self.before_restart}
        known = (
            *(path.name for path in (self.record, self.checkpoints, self.metrics, self.splits, self.summary)),
            *(path.name for path in (self.model_card, self.hydra)),
            "predictions*.csv", "predictions*.parquet", f"*-{self.PROFILE}*", *(f"{name}.png" for name in FIGURES),
            *OF_LOGGERS,
        )  # fmt: skip
        found = self.path.iterdir() if whole else (path for name in known for path in self.path.glob(name))
        tops = {self.path / path.relative_to(self.path).parts[0] for path in found}
        return sorted(tops - of_commands)

    def write_splits(self, columns: Mapping[str, Sequence]) -> None:
        """Write splits.csv from columns of one length."""
        with atomic_open(self.splits, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            # Tuples, since dicts of a million images take three times as long
            writer.writerows(zip(*columns.values(), strict=True))

    def iterate_splits(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield line number and row of splits.csv: SPLIT_COLUMNS and the columns that name subsets, all as text.

        Raises:
            UserError: the file is missing or not a complete table.
        """
        return iterate_csv(self.splits, needed=("path", "label", "split"))

    def read_splits(self) -> list[dict[str, str]]:
        """Read all rows of splits.csv; for columns and errors see `iterate_splits`."""
        return [row for _, row in self.iterate_splits()]

    def group_names(self) -> dict[str, str]:
        """Return path -> group for the images of splits.csv that have a group; for errors see `iterate_splits`."""
        return {row["path"]: row["group"] for _, row in self.iterate_splits() if row.get("group")}

    def write_metrics(self, rows: Iterable[Mapping]) -> None:
        """Write metrics.csv, one row per epoch, with METRIC_COLUMNS and those SCORE_COLUMNS that any row has."""
        rows = list(rows)
        write_csv(
            self.metrics, (*METRIC_COLUMNS, *(name for name in SCORE_COLUMNS if any(name in row for row in rows))), rows
        )

    def read_metrics(self) -> dict[int, dict[str, float]]:
        """Read metrics.csv: epoch -> METRIC_COLUMNS and any SCORE_COLUMNS, with NaN for values that are not finite numbers.

        Raises:
            UserError: the file is missing or not a complete table, or an epoch is invalid; with file and line.
        """
        epochs = {}
        for line, row in iterate_csv(self.metrics, METRIC_COLUMNS, LARGEST_METRICS, complete=True):
            values = {name: _finite(row[name]) for name in (*METRIC_COLUMNS, *SCORE_COLUMNS) if name in row}
            if not (0 <= values["epoch"] <= MOST_EPOCHS and values["epoch"].is_integer()):
                raise UserError(f"{self.metrics}: line {line}: epoch is {row['epoch'][:40]!r}, not an epoch number")
            epochs[int(values["epoch"])] = values
        return epochs


def shown_path(path: Path) -> Path:
    """Return a path below the current folder relative to it; other paths unchanged."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path


def shown_script(name: str) -> str:
    """Return the name of a root script, with its folder unless that is the current one."""
    return name if Path.cwd() == PROJECT else str(PROJECT / name)


def missing_folders(path: Path) -> list[Path]:
    """Return which of a folder and its parents do not exist, the inner ones first."""
    path = path.absolute()
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, the inner ones first; for folders that a command made and did not use."""
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with contextlib.suppress(OSError):  # not empty, or missing
            folder.rmdir()


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
