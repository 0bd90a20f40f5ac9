"""The runs of smallest.py: their arguments and folders, training shared with other processes, and their results."""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import lightning as L
import numpy as np
from omegaconf import DictConfig

from callbacks.run_progress import USED_UP, RunProgress
from common.errors import UserError
from common.predictions_csv import read_predictions
from common.run_folder import RunFolder
from common.run_record import RunRecord, write_record
from common.smallest_record import Candidate
from common.text import override_value, plural
from engine.cli import safe_name
from engine.error_messages import user_message
from engine.run.callback_list import configured_callbacks
from engine.run.cost import on_gpu
from engine.run.idle_in_run import idle_in_run
from engine.run.job import folder_lock
from engine.search.objectives import Objective
from engine.search.trial import completed_record, run_trial
from engine.smallest.plan import Budget
from engine.smallest.progress import Progress
from engine.smallest.settings import SmallestSettings
from engine.state import STATE
from evaluation.intervals import group_numbers

log = logging.getLogger(__name__)

POLL_S = 1.0
STAGES = "stages=[fit]"  # costs are known, and test images are evaluated at the end only
FROZEN = [
    "model.freeze=true", "trainer.max_epochs=1", "trainer.min_epochs=null",
    "trainer.check_val_every_n_epoch=1", "callbacks.linear_probe.steps=200", "callbacks.linear_probe.weight_decay=auto",
]  # fmt: skip


class RunKey(NamedTuple):
    """One training run: a candidate, a seed and, in cross-validation, a fold."""

    candidate: int
    seed: int
    fold: int | None = None


class Runs:
    """Train and evaluate candidates as ordinary runs of train.py, each in its own folder inside that of the search."""

    def __init__(
        self, settings: SmallestSettings, candidates: Sequence[Candidate], folds: int | None, budget: Budget,
        progress: Progress, run: Callable,
    ):  # fmt: skip
        self.settings, self.candidates, self.folds = settings, candidates, folds
        self.budget, self.progress, self.run = budget, progress, run
        self.failed: dict[RunKey, Exception] = {}

    def first(self, candidate: int) -> RunKey:
        """Return a candidate's run in the race, which also counts in the finals."""
        return RunKey(candidate, self.settings.question.seeds[0], None if self.folds is None else 0)

    def finals(self, candidate: int) -> list[RunKey]:
        """Return all runs of a finalist, one per seed or fold."""
        seeds = self.settings.question.seeds
        if self.folds is None:
            return [RunKey(candidate, seed) for seed in seeds]
        return [RunKey(candidate, seeds[0], fold) for fold in range(self.folds)]

    def folder(self, key: RunKey, stage: str = "runs") -> RunFolder:
        """Return the folder of a run, or of its evaluation on test (`stage="test"`)."""
        each = self.candidates[key.candidate]
        fold = "" if key.fold is None else f"-fold{key.fold}"
        frozen = "-frozen" if each.frozen else ""
        name = safe_name(f"{each.backbone}-{each.keep}-{each.image_size}px{frozen}-seed{key.seed}{fold}")
        return RunFolder(self.settings.folder / stage / name)

    def overrides(self, key: RunKey) -> list[str]:
        """Return a run's arguments of train.py, without the stages."""
        each, weights = self.candidates[key.candidate], self.settings.candidates.weights
        given = [f"model.weights={override_value(weights[each.backbone])}"] if each.backbone in weights else []
        folds = [] if key.fold is None else [f"datamodule.folds={self.folds}", f"datamodule.fold={key.fold}"]
        return [
            *self.settings.overrides,
            "model=truncated",
            f"model.backbone={each.backbone}",
            f"model.keep={each.keep}",
            f"model.image_size={each.image_size}",
            *given,
            f"seed={key.seed}",
            *folds,
            *(FROZEN if each.frozen else []),
        ]

    def callbacks(self) -> list:
        """Return the callbacks that show a run's progress and stop it when the budget is used up."""
        return [RunProgress(show=self.progress.epoch, is_over=lambda: self.budget.is_over)]

    def reopen(self) -> None:
        """Let the runs resume that an earlier budget has cut off."""
        for path in (self.settings.folder / "runs").glob("*/result.json"):
            record = completed_record(RunFolder(path.parent))
            if record is not None and record.reason == USED_UP:
                record.status, record.reason = "running", None
                write_record(record)

    def is_cut_off(self, key: RunKey) -> bool:
        """Return whether the budget has cut off a run."""
        record = self.record(key)
        return record is not None and record.reason == USED_UP

    def train(self, keys: Sequence[RunKey], title: str) -> None:
        """Train all runs that are not done yet, and wait for those that other processes train."""
        run = functools.partial(self.run, callbacks=self.callbacks())
        self._all(keys, title, "runs", lambda key: [*self.overrides(key), STAGES], run)

    def test(self, keys: Sequence[RunKey], title: str, *, cost_of: RunKey) -> None:
        """Evaluate the best checkpoints of these runs on the test images, each once.

        Args:
            cost_of: the run whose network is handed out; its costs are measured for the model card.
        """

        def overrides(key: RunKey) -> list[str]:
            checkpoint = override_value(str(self.folder(key).best_checkpoint))
            stages = "stages=[cost,test]" if key == cost_of else "stages=[test]"
            return [*self.overrides(key), stages, f"ckpt_path={checkpoint}"]

        self._all(keys, title, "test", overrides, self.run)

    def _all(
        self, keys: Sequence[RunKey], title: str, stage: str, overrides: Callable[[RunKey], list[str]], run: Callable
    ) -> None:
        while left := [key for key in keys if not self._is_over(key, stage)]:
            free = [key for key in left if self._is_free(key, stage)]
            for key in free:
                if self._is_over(key, stage):
                    continue
                done = sum(self._is_over(each, stage) for each in keys)
                self.progress.begin(f"{title}: run {done + 1} of {len(keys)}, {self.describe(key)}")
                with self.progress.quiet():
                    error = run_trial(self.folder(key, stage), overrides(key), run)
                if error is not None and completed_record(self.folder(key, stage)) is None:
                    self.failed[key] = error
                    log.error("%s: failed: %s", self.describe(key), describe_failure(error))
                if stage == "runs" and self.is_trained(key):
                    metric = Objective(f"val.{self.settings.question.metric}")
                    log.info("%s: finished, %s", self.describe(key), metric.describe(self.record(key)))
            if not free:
                time.sleep(POLL_S)

    def describe(self, key: RunKey) -> str:
        """Return the candidate's name with the fold or seed."""
        each = self.candidates[key.candidate]
        if key.fold is not None:
            return f"{each.name}, fold {key.fold + 1} of {self.folds}"
        return f"{each.name}, seed {key.seed}"

    def record(self, key: RunKey, stage: str = "runs") -> RunRecord | None:
        """Return the record of a run that finished or was pruned."""
        return completed_record(self.folder(key, stage))

    def is_trained(self, key: RunKey) -> bool:
        """Return whether a run has reached its last epoch."""
        record = self.record(key)
        return record is not None and record.status == "finished"

    def _is_over(self, key: RunKey, stage: str) -> bool:
        return key in self.failed or self.record(key, stage) is not None

    def _is_free(self, key: RunKey, stage: str) -> bool:
        with folder_lock(self.folder(key, stage)) as is_free:
            return is_free

    def value(self, key: RunKey) -> float:
        """Return the metric of a finished run on its validation images."""
        found = getattr(self.record(key).val, self.settings.question.metric)
        return getattr(found, "value", found)


def idle_in_runs(
    settings: SmallestSettings, config: DictConfig, data: L.LightningDataModule, folds: int | None
) -> dict[str, str]:
    """Return what `common.idle.warn_of_idle` needs for settings without an effect in any run; only their records show it.

    Args:
        config: of a run without folds, and `data` its images, after `setup`.
        folds: number of folds of train and val; None: one validation split.
    """
    idle = idle_in_run(config, configured_callbacks(config), data, pretrained=False, on_gpu=on_gpu(config))
    if folds is not None:  # drawn by this seed
        idle.pop("datamodule.split_seed", None)
    elif (n_val := data.n_images("val")) >= settings.folds_below:
        idle["finals.folds"] = (
            f"with {plural(n_val, 'validation image')}, since finals.folds_below={settings.folds_below}"
        )
    return idle


def describe_failure(error: BaseException) -> str:
    """Return why a run failed, for its note and the page."""
    return user_message(error) or repr(error)


class Outcomes(NamedTuple):
    """Which images a candidate's networks classify correctly: one row per seed; with folds, on val, one row for all."""

    seeds: list[int]
    right: np.ndarray  # (S, n) bool
    labels: np.ndarray  # (n,)
    groups: np.ndarray | None  # (n,) numbers; None: each image is a group
    images: list[str]  # (n,) paths, in order


def read_outcomes(runs: Runs, keys: Iterable[RunKey], split: str) -> Outcomes | None:
    """Read the predictions of one candidate's runs on val or test; return None without any.

    On val, out-of-fold predictions are joined: each image was predicted by the network that did not train on it. On test, the
    network of each fold has its own row.

    Raises:
        UserError: a table is missing or damaged, or the tables list different images.
    """
    stage, tables = "test" if split == "test" else "runs", []
    keys = [key for key in keys if runs.is_trained(key) and (split == "val" or runs.record(key, "test") is not None)]
    for key in keys:
        folder = runs.folder(key, stage)
        try:
            table = read_predictions(folder, split, getattr(runs.record(key, stage), split))
            groups = folder.group_names()
        except UserError as error:
            if isinstance(error.__cause__, ImportError):
                raise
            found = str(error).partition("; run the stage test")[0]  # drops the advice for a run that the user started
            raise UserError(
                f"{found}; delete the folder {folder.path}, then rerun the same command, which creates it"
            ) from error
        lines = zip(table.paths, table.labels.tolist(), table.correct.tolist(), strict=True)
        tables.append(sorted((path, label, groups.get(path, ""), right) for path, label, right in lines))
    if not tables:
        return None
    numbers = [key.seed if key.fold is None else key.fold for key in keys]
    if runs.folds is not None and split == "val":
        tables, numbers = [sorted(line for table in tables for line in table)], [keys[0].seed]
    images = [line[:3] for line in tables[0]]
    if any([line[:3] for line in table] != images for table in tables):
        raise UserError(
            f"{runs.settings.folder}: its runs were evaluated on different images; use another {STATE.other_folder}"
        )
    paths, labels, groups = map(list, zip(*images, strict=True))
    right = np.array([[line[3] for line in table] for table in tables])
    return Outcomes(numbers, right, np.array(labels), group_numbers(groups), paths)
