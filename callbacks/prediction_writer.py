"""predictions.csv and predictions_val.csv: what the network says of every image of a split."""

from pathlib import Path

import lightning as L
import numpy as np
import torch

from common.atomic_io import tolerate_disk_errors, write_csv
from common.predictions_csv import FILES


class PredictionWriter(L.Callback):
    """Collects rows and probabilities of a pass over val or test outside of training; one line an image, each once."""

    def __init__(self):
        self.tables: dict[str, list[dict]] = {}  # split -> lines
        self.labels: dict[str, np.ndarray] = {}  # split -> (n,)
        self.probabilities: dict[str, np.ndarray] = {}  # split -> (n, K), not rounded
        self._rows: list[torch.Tensor] = []
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
        self._probabilities.append(outputs["probabilities"].cpu())

    def _finish(self, trainer, classes: list[str], split: str) -> None:
        rows = [row for batch in self._rows for row in batch.tolist()]
        probabilities = [p for batch in self._probabilities for p in batch.tolist()]
        self._rows, self._probabilities = [], []
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (rows, probabilities))
            rows = [row for part in parts for row in part[0]]
            probabilities = [p for part in parts for p in part[1]]
        catalog, store = trainer.datamodule.catalog, trainer.datamodule.store
        table = []
        for row, line in sorted(zip(rows, probabilities, strict=True)):
            table.append(
                {
                    "path": catalog.paths[row],
                    "fingerprint": store.facts.fingerprints[row],
                    "label": classes[catalog.labels[row]],
                    "predicted": classes[max(range(len(line)), key=line.__getitem__)],
                    **{f"p_{name}": f"{p:.6f}" for name, p in zip(classes, line, strict=True)},
                }
            )
        order = np.argsort(rows)
        self.labels[split] = catalog.labels[np.asarray(rows)[order]]
        self.probabilities[split] = np.asarray(probabilities, dtype=np.float64)[order]
        self.tables[split] = table
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / FILES[split]
            with tolerate_disk_errors(path):
                write_csv(path, list(table[0]), table)
