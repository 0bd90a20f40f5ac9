"""contact_sheet.png: images of each class and split, and the suspicious ones with the reason."""

from pathlib import Path

import lightning as L
import numpy as np

from callbacks.image_logger import log_image
from common.atomic_io import tolerate_disk_errors
from common.image_grid import rows_of_images, save_png

SHOWN = 6  # images a strip
MOST_CLASSES = 8
MOST_SUSPICIONS = 12


class ContactSheet(L.Callback):
    """Drawn when training starts, into the run's folder and TensorBoard."""

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch or not trainer.is_global_zero:
            return
        data = trainer.datamodule
        pixels = rows_of_images([*self._classes(data), *self._suspicions(data)])
        path = Path(trainer.default_root_dir) / "contact_sheet.png"
        with tolerate_disk_errors(path):
            save_png(pixels, path)
        log_image(trainer, "contact_sheet", pixels)

    def _classes(self, data) -> list:
        """A strip for each class and split, of the first classes."""
        strips, catalog = [], data.catalog
        for label, name in enumerate(catalog.classes[:MOST_CLASSES]):
            for split in ("train", "val", "test"):
                rows = catalog.rows(split)
                rows = rows[catalog.labels[rows] == label]
                if len(rows):
                    shown = rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)]
                    strips.append(
                        (f"{name}, {split}: {len(rows):,}", [(data.store[r], _name(catalog, r)) for r in shown])
                    )
        return strips

    def _suspicions(self, data) -> list:
        strips, catalog = [], data.catalog
        for finding in data.findings:
            for group in finding.groups[: MOST_SUSPICIONS // max(len(data.findings), 1) + 1]:
                images = [
                    (data.store[row], f"{catalog.splits[row] or 'left out'}: {_name(catalog, row)}")
                    for row in group[:SHOWN]
                ]
                where = " across splits" if finding.leak else ""
                labels = sorted({catalog.classes[catalog.labels[row]] for row in group})
                strips.append((f"{finding.kind}{where} ({', '.join(labels)})", images))
        return strips[:MOST_SUSPICIONS]


def _name(catalog, row: int) -> str:
    return Path(catalog.paths[row]).name
