"""Shards of both engines, made of image folders."""

import io
import json
import tarfile
from pathlib import Path

from tests.support.helpers import make_images

COUNTS = {
    "train/blue": 14, "train/red": 9, "train/green": 11, "val/blue": 4, "val/red": 4, "val/green": 4, "test/blue": 3,
    "test/red": 3, "test/green": 3,
}  # fmt: skip


def make_folder(root: Path) -> Path:
    """Save 34 training, 12 validation and 9 test images of three colors as image folders."""
    return make_images(root, COUNTS, size=24)


def files_of(split: Path) -> list[tuple[Path, str]]:
    """Return the images of a split with their labels, the classes mixed."""
    return sorted(((file, file.parent.name) for file in split.glob("*/*.png")), key=lambda each: each[0].name)


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    """Write a shard of samples {suffix: content}, as webdataset's ShardWriter does."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for suffix, content in sample.items():
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_tars(root: Path, images: Path, *, each: int = 5) -> list[str]:
    """Write all splits as shards of `each` images; return the settings."""
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        samples = [{"png": file.read_bytes(), "cls": label.encode()} for file, label in files_of(images / split)]
        for shard, start in enumerate(range(0, len(samples), each)):
            write_tar(root / split / f"{shard:03}.tar", samples[start : start + each])
    return [
        "datamodule=webdataset",
        *(f"datamodule.source.{split}={root / split}" for split in ("train", "val", "test")),
    ]


def write_chunks(root: Path, images: Path, *, each: int = 5) -> list[str]:
    """Write all splits as litdata's chunks with numbers as labels, and their names beside them; return the settings."""
    from litdata.streaming.writer import BinaryWriter  # what litdata.optimize writes with, without its processes

    classes = ["blue", "green", "red"]
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        writer = BinaryWriter(str(root / split), chunk_size=each)
        for number, (file, label) in enumerate(files_of(images / split)):
            writer[number] = {"image": file.read_bytes(), "label": classes.index(label)}
        writer.done()
        writer.merge(1)
    (root / "train" / "classes.json").write_text(json.dumps({"classes": classes}))
    return ["datamodule=litdata", *(f"datamodule.source.{split}={root / split}" for split in ("train", "val", "test"))]
