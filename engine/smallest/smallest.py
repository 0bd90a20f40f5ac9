"""Answer which network is the smallest that is good enough: candidates, screen, race, finals, choice, proof, page."""

import contextlib
import logging
import os
import platform
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.atomic_io import write_text
from common.errors import StopRequested, UserError
from common.run_folder import RunFolder
from common.signals import stop_immediately
from common.smallest_record import Answer, Measured, SmallestRecord, Trained
from common.text import plural
from engine.config.instantiate import instantiate
from engine.config.validate import validate
from engine.run.job import write_configuration
from engine.search.space import compose_train_config
from engine.search.trial import log_to
from engine.smallest.candidates import list_candidates
from engine.smallest.plan import RESERVE_S, Budget, Plan, TrainingTimes
from engine.smallest.progress import Progress
from engine.smallest.race import Race
from engine.smallest.runs import STAGES, Outcomes, RunKey, Runs, read_outcomes
from engine.smallest.screen import run_screen
from engine.smallest.selection import cost_of, pick_finalists, pick_race, pick_reference
from engine.smallest.settings import SmallestSettings, read_settings
from engine.state import STATE

log = logging.getLogger(__name__)

SCREEN_SHARE = 0.35  # of the budget


def run_smallest(config: DictConfig, run: Callable) -> None:
    """Run all stages, of which those that were done before are taken over; write smallest.json, the page and best.ckpt.

    Args:
        run: the one of train.py, which takes a configuration, a record and further callbacks.

    Raises:
        UserError: bad settings, no candidate, or images of which nothing can be learned.
    """
    hydra = HydraConfig.get()
    settings = read_settings(config, Path(hydra.run.dir), list(hydra.overrides.task))
    try:
        with stop_immediately(), Progress() as progress:
            Smallest(settings, config, run, progress).find()
    except StopRequested as stopped:
        stopped.next_step = stopped.next_step or f". Resume with: {shlex.join(STATE.command)}"
        raise


class Smallest:
    """Find the smallest network that is good enough; the processes of a search share its folder, and nothing else."""

    def __init__(self, settings: SmallestSettings, config: DictConfig, run: Callable, progress: Progress):
        self.settings, self.config, self._run, self.progress = settings, config, run, progress
        self.question, self.folder = settings.question, settings.folder
        self.budget = Budget(settings.question.budget_minutes)
        self.plan = Plan(self.folder, self.budget)

    def find(self) -> None:
        """Run all stages."""
        data = self._open_data()
        self.candidates = list_candidates(self.config, len(data.catalog.classes))
        self.progress.begin("reading the images")
        data.setup()
        self.folds = self._folds(data)
        self._begin(data)
        with log_to(self.folder / "smallest.log", "%(asctime)s %(levelname)s %(message)s"):
            self._screen()
            race = self._race()
            finals = self._finals(race)
            self._answer(finals)

    def _open_data(self) -> L.LightningDataModule:
        """Return the data of the runs, without an image read: the classes are known from the names."""
        size = min(self.config.candidates.image_sizes)
        overrides = [*self.settings.overrides, "model=truncated", f"model.image_size={size}", "model.weights=null", STAGES]
        config = validate(compose_train_config(overrides))
        transforms = {key: instantiate(config, key) for key in ("augmentation", "batch_transform")}
        return instantiate(
            config, "datamodule", **transforms, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3
        )

    def _folds(self, data: L.LightningDataModule) -> int | None:
        """Return into how many folds train and val are divided; None: one validation split, and seeds."""
        if self.settings.folds is not None:
            return self.settings.folds
        n_val, folds = len(data.catalog.rows("val")), self.settings.n_folds
        if n_val >= self.settings.folds_below:
            return None
        labels = data.catalog.labels[np.concatenate([data.catalog.rows("train"), data.catalog.rows("val")])]
        if min(Counter(labels.tolist()).values()) < 2 * folds:
            return None
        return folds

    def _begin(self, data: L.LightningDataModule) -> None:
        """Begin the record, in a folder that now exists."""
        catalog = data.catalog
        counts = {split: len(catalog.rows(split)) for split in ("train", "val", "test")}
        self.n_train, self.n_val, self.has_test = counts["train"], counts["val"], counts["test"] > 0
        labels = Counter(catalog.labels[catalog.present()].tolist())
        self.record = SmallestRecord(
            name=self.settings.name,
            command=STATE.command,
            question=self.question,
            data={
                "name": catalog.name, "root": str(catalog.root), "classes": catalog.classes,
                **{f"n_{split}": n for split, n in counts.items()},
                "majority": max(labels.values()) / sum(labels.values()), "folds": self.folds,
            },
            machine={"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            candidates=self.candidates,
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        write_configuration(RunFolder(self.folder), OmegaConf.to_yaml(self.config), HydraConfig.instance().cfg)
        if self.folds and self.settings.folds is None:
            self.note(
                f"The validation split has only {self.n_val} images: the finals are a cross-validation over train and "
                f"validation images in {self.folds} folds in place of seeds."
            )
            self.n_train, self.n_val = (
                round((self.n_train + self.n_val) * (1 - 1 / self.folds)), round((self.n_train + self.n_val) / self.folds)
            )  # fmt: skip

    def note(self, text: str) -> None:
        """Record what was skipped, fell back or was cut off, and show it."""
        if text not in self.record.notes:
            self.record.notes.append(text)
            log.info("%s", text)
