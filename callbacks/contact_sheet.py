"""Draw contact_sheet.png: images of each class and split, and the suspicious ones with the reason."""

import hashlib
from pathlib import Path

import lightning as L
import numpy as np

from callbacks.image_logger import save_figure
from common.image_grid import encode_png, rows_of_images

SHOWN = 6  # images per row
MOST_CLASSES = 8
MOST_SUSPICIONS = 12
MOST_HARMLESS = 3  # groups of duplicates within a split, which do no harm
LAST: dict[bytes, bytes] = {}  # the sheet that was drawn last, keyed by its content


class ContactSheet(L.Callback):
    """Draw the contact sheet when training starts, for the run's folder and the loggers."""

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 0 and trainer.is_global_zero:
            data = trainer.datamodule
            save_figure(trainer, "contact_sheet", _draw([*_class_rows(data), *_suspicious_rows(data)]))


def _draw(rows: list) -> bytes:
    """Draw rows of images as a PNG; reuse the PNG of the sweep's previous job if its rows are the same."""
    content = hashlib.blake2b()
    for heading, images in rows:
        content.update(repr((heading, [(image.shape, title) for image, title in images])).encode())
        for image, _ in images:
            content.update(np.ascontiguousarray(image))
    key = content.digest()
    if key not in LAST:
        LAST.clear()
        LAST[key] = encode_png(rows_of_images(rows))
    return LAST[key]


def _class_rows(data) -> list:
    """Make a titled row of images for each split of each of the first classes; the last heading says how many there are."""
    rows_shown, catalog = [], data.catalog
    for label, name in enumerate(catalog.classes[:MOST_CLASSES]):
        for split in ("train", "val", "test"):
            rows = catalog.rows(split)
            rows = rows[catalog.labels[rows] == label]
            if len(rows):
                shown = rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)]
                images = [(data.pixel_cache[row], _name(catalog, row)) for row in shown]
                rows_shown.append((f"{name}, {split}: {len(rows):,}", images))
    if rows_shown and len(catalog.classes) > MOST_CLASSES:
        heading, images = rows_shown[-1]
        rows_shown[-1] = f"{heading}\n(the first {MOST_CLASSES} of {len(catalog.classes):,} classes)", images
    return rows_shown


def _suspicious_rows(data) -> list:
    """Make a titled row of images for each of the first groups that the audit found."""
    rows_shown, catalog = [], data.catalog
    for finding in data.findings:
        harmless = finding.kind.endswith("duplicate") and not finding.leak
        most = MOST_HARMLESS if harmless else MOST_SUSPICIONS // max(len(data.findings), 1) + 1
        for group in finding.groups[:most]:
            images = [
                (data.pixel_cache[row], f"{catalog.splits[row] or 'excluded'}: {_name(catalog, row)}")
                for row in group[:SHOWN]
            ]
            where = " across splits" if finding.leak else ""
            labels = sorted({catalog.classes[catalog.labels[row]] for row in group})
            rows_shown.append((f"{finding.kind}{where} ({', '.join(labels)})", images))
    return rows_shown[:MOST_SUSPICIONS]


def _name(catalog, row: int) -> str:
    return Path(catalog.paths[row]).name
