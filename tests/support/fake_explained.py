"""A run that never ran, with a checkpoint and images: what explaining and the demo work on."""

from pathlib import Path

from common.atomic_io import write_csv
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.fake_runs import make_run

CLASSES = ("blue", "red")


def make_explained_run(folder: Path, images: Path) -> Path:
    """A run on a folder of SPLIT/CLASS/*.png, whose network was never trained; returns its best.ckpt."""
    make_run(folder, epochs=0, classes=CLASSES, data={"root": str(images)})
    rows = [
        {"path": file.relative_to(images).as_posix(), "label": file.parent.name, "split": split, "group": ""}
        for split in ("train", "val", "test")
        for file in sorted((images / split).rglob("*.png"))
    ]
    write_csv(folder / "splits.csv", list(rows[0]), rows)
    return make_checkpoint(folder / "checkpoints" / "best.ckpt", classes=CLASSES, image_size=32, decision=None)
