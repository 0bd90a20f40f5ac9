"""Make a run that never ran, with a checkpoint and images: for what is done with a run's images after training."""

from pathlib import Path

from common.run_folder import RunFolder
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.fake_runs import make_run

CLASSES = ("blue", "red")


def make_explained_run(folder: Path, images: Path) -> Path:
    """Make a run on a folder of SPLIT/CLASS/*.png, whose network was never trained; return its best.ckpt."""
    files = [file for split in ("train", "val", "test") for file in sorted((images / split).rglob("*.png"))]
    make_labeled_run(folder, images, files, [f.parent.name for f in files], [f.parent.parent.name for f in files])
    return make_checkpoint(RunFolder(folder).best_checkpoint, classes=CLASSES, image_size=32, decision=None)


def make_labeled_run(folder: Path, root: Path, files: list[Path], labels: list[str], splits: list[str]) -> RunFolder:
    """Make the record of a run and its splits.csv on images below `root`; without a checkpoint."""
    counts = {f"n_{split}": splits.count(split) for split in ("val", "test")}
    run = RunFolder(make_run(folder, epochs=0, classes=CLASSES, data={"root": str(root), **counts}))
    paths = [file.relative_to(root).as_posix() for file in files]
    run.write_splits({"path": paths, "label": labels, "split": splits, "group": [""] * len(files)})
    return run
