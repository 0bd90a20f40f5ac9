"""A run that never ran, with a checkpoint and pictures: what explaining and the demo work on."""

from pathlib import Path

from reports.files import write_csv
from tests.made_up_checkpoint import make_checkpoint
from tests.made_up_runs import make_run

CLASSES = ("blue", "red")


def make_explained_run(folder: Path, pictures: Path) -> Path:
    """A run on a folder of SPLIT/CLASS/*.png, whose network was never trained; returns its best.ckpt."""
    make_run(folder, epochs=0, classes=CLASSES, data={"root": str(pictures)})
    rows = [
        {"path": file.relative_to(pictures).as_posix(), "label": file.parent.name, "split": split, "group": ""}
        for split in ("train", "val", "test")
        for file in sorted((pictures / split).rglob("*.png"))
    ]
    write_csv(folder / "splits.csv", list(rows[0]), rows)
    return make_checkpoint(folder / "checkpoints" / "best.ckpt", classes=CLASSES, image_size=32, decision=None)
