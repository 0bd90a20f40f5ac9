"""Balanced accuracy, F1 and AUROC of each epoch's validation, if a setting monitors them."""

import logging
from collections import Counter

import lightning as L
import numpy as np
import torch

from callbacks.prediction_writer import in_catalog_order
from common.errors import UserError
from common.text import join_words
from evaluation.scores import balanced_accuracy, count_confusion, macro_auroc, macro_f1

log = logging.getLogger(__name__)


class EpochScores(L.Callback):
    """Log the monitored scores, computed from all images at once, like those of the record.

    Each score is a mean over the classes that have images in the validation split.

    Args:
        monitored: score (val/balanced_accuracy, val/f1 or val/auroc) -> the key that monitors it.
    """

    def __init__(self, *, monitored: dict[str, str]):
        self.monitored = monitored
        self._outputs: list[tuple[torch.Tensor, ...]] = []  # per batch: rows (B,), logits and probabilities (B, K)

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage == "fit":
            data = trainer.datamodule
            self._check(data.catalog.labels[data.validated_rows()], data.catalog.classes, data.validated_split)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.state.fn == "fit":
            self._outputs.append(tuple(outputs[name].cpu() for name in ("rows", "logits", "probabilities")))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if trainer.state.fn != "fit":
            return
        rows, logits, probabilities = in_catalog_order(trainer, self._outputs)
        self._outputs = []
        labels = trainer.datamodule.catalog.labels[rows]
        for name in self.monitored:
            value = _score(name, labels, probabilities, logits)
            pl_module.log(name, value, logger=False, batch_size=1, sync_dist=True)

    def _check(self, labels: np.ndarray, classes: list[str], split: str) -> None:
        """Refuse scores that are undefined on these images; warn of classes without images or with a single one.

        Raises:
            UserError: all images have the same class.
        """
        score, key = next(iter(self.monitored.items()))
        counts = Counter(labels.tolist())
        if len(counts) < 2:
            raise UserError(
                f"{key}={score}: all images of {split} are of one class ({classes[labels[0]]}), so it means nothing; "
                f"use {key}=val/loss, or more images"
            )
        absent, single = ([classes[k] for k in range(len(classes)) if counts[k] == n] for n in (0, 1))
        if absent:
            log.warning("%s=%s: %s has no images of %s, so it covers only the other classes",
                        key, score, split, join_words(absent, 8))  # fmt: skip
        if single:
            log.warning("%s=%s: %s has one image of %s, which counts as much as all of another class; val/loss is steadier",
                        key, score, split, join_words(single, 8))  # fmt: skip


def _score(name: str, labels: np.ndarray, probabilities: np.ndarray, logits: np.ndarray) -> float:
    if not np.isfinite(logits).all():
        return float("nan")  # TerminateOnNaN or the search then ends the run
    if name == "val/auroc":
        return macro_auroc(labels, probabilities, logits)
    confusion = count_confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    return float({"val/balanced_accuracy": balanced_accuracy, "val/f1": macro_f1}[name](confusion))
