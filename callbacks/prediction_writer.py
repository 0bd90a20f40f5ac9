"""Collect the predictions on val and test, and write predictions_val.csv and predictions.csv."""

from pathlib import Path

import lightning as L
import numpy as np
import torch

from common.predictions_csv import Predictions, write_predictions
from common.run_folder import RunFolder
from evaluation.intervals import group_numbers


class PredictionWriter(L.Callback):
    """Collect the network's predictions on val or test outside of training, and write one row per image."""

    def __init__(self):
        self.predictions: dict[str, Predictions] = {}  # by split, in the order of the catalog
        self._outputs: list[tuple[torch.Tensor, ...]] = []  # per batch: rows (B,), logits and probabilities (B, K)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if evaluated_split(trainer):
            self._outputs.append(tuple(outputs[name].cpu() for name in ("rows", "logits", "probabilities")))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if (split := evaluated_split(trainer)) is None:
            return
        rows, logits, probabilities = in_catalog_order(trainer, self._outputs)
        self._outputs = []
        catalog, stats = trainer.datamodule.catalog, trainer.datamodule.pixel_cache.stats
        folder = RunFolder(Path(trainer.default_root_dir))
        self.predictions[split] = Predictions(
            fingerprints=[stats.fingerprints[row] for row in rows],
            labels=catalog.labels[rows],
            predicted=probabilities.argmax(axis=1),
            classes=pl_module.classes,
            probabilities=probabilities,
            paths=[catalog.paths[row] for row in rows],
            source=folder,
            logits=logits,
            groups=group_numbers([catalog.groups[row] for row in rows]),
        )
        if trainer.is_global_zero:
            write_predictions(folder, split, self.predictions[split])

    on_test_epoch_end = on_validation_epoch_end


def evaluated_split(trainer) -> str | None:
    """Return the split, val or test, that is evaluated outside of training; None during training."""
    return {"validate": "val", "test": "test"}.get(trainer.state.fn)


def in_catalog_order(trainer, batches: list[tuple[torch.Tensor, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the batches of all processes: rows (n,), logits and probabilities (n, K) in float64, sorted as in the catalog."""
    rows, logits, probabilities = (torch.cat(each) for each in zip(*batches, strict=True))
    parts = [(rows.numpy(), logits.double().numpy(), probabilities.double().numpy())]
    if trainer.world_size > 1:
        own, parts = parts[0], [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, own)
    joined = [np.concatenate(each) for each in zip(*parts, strict=True)]
    order = np.argsort(joined[0])
    return tuple(each[order] for each in joined)
