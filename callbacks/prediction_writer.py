"""Collect the predictions of val and test and write predictions.csv and predictions_val.csv."""

from pathlib import Path

import lightning as L
import numpy as np
import torch

from common.predictions_csv import Predictions, write_predictions
from common.run_folder import RunFolder
from evaluation.intervals import group_numbers


class PredictionWriter(L.Callback):
    """Collect what the network says of val or test outside of training, and write a row an image, each once."""

    def __init__(self):
        self.predictions: dict[str, Predictions] = {}  # by split, in the order of the catalog
        self._rows: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []
        self._probabilities: list[torch.Tensor] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.state.fn == "validate":
            self._collect(outputs)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._collect(outputs)

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module.classes, "val")

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        self._finish(trainer, pl_module.classes, "test")

    def _collect(self, outputs: dict[str, torch.Tensor]) -> None:
        self._rows.append(outputs["rows"].cpu())
        self._logits.append(outputs["logits"].cpu())
        self._probabilities.append(outputs["probabilities"].cpu())

    def _finish(self, trainer, classes: list[str], split: str) -> None:
        outputs = (torch.cat(self._logits).double().numpy(), torch.cat(self._probabilities).double().numpy())
        parts = [(torch.cat(self._rows).numpy(), *outputs)]
        self._rows, self._logits, self._probabilities = [], [], []
        if trainer.world_size > 1:
            own, parts = parts[0], [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        rows, logits, probabilities = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )  # (n,), (n, K), (n, K)
        order = np.argsort(rows)
        rows, logits, probabilities = rows[order], logits[order], probabilities[order]
        catalog, stats = trainer.datamodule.catalog, trainer.datamodule.pixel_cache.stats
        folder = RunFolder(Path(trainer.default_root_dir))
        self.predictions[split] = Predictions(
            fingerprints=[stats.fingerprints[row] for row in rows],
            labels=catalog.labels[rows],
            predicted=probabilities.argmax(axis=1),
            classes=classes,
            probabilities=probabilities,
            paths=[catalog.paths[row] for row in rows],
            source=folder,
            logits=logits,
            groups=group_numbers([catalog.groups[row] for row in rows]),
        )
        if trainer.is_global_zero:
            write_predictions(folder, split, self.predictions[split])
