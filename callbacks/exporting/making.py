"""From a checkpoint to a file: made under another name, proved, and only then put where it belongs."""

import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from callbacks.predicting.backends import Checkpoint, OnnxFile, of_extra, softmax
from callbacks.predicting.sources import Picture
from datamodules.decode import DECODER, open_picture, resize
from datamodules.normalise import as_batch, normalise
from reports.files import write_bytes

from . import graphs
from .asked import check_asked
from .int8 import quantise
from .proof import CALIBRATED_ON, MEASURED_ON, PROVED_ON, Proof, evidence, known_pictures, prove, spread

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TEXTS = "justenough.json"  # the metadata within a .pt2 file


class Exported(NamedTuple):
    """What was written, and what it was found to do."""

    path: Path
    proof: Proof
    calibrated_on: int  # pictures; 0 where nothing was calibrated


def export(
    ckpt: str | None,
    *,
    format: str,
    preprocessing: bool,
    out: str | None,
    images: str | list[str] | None,
    root: str | None,
    largest_difference: float,
) -> Exported:
    """Makes the file and proves it.

    Args:
        format: onnx, int8 or torch_export.
        preprocessing: uint8 pictures of any size in and probabilities out, or normalised pictures in and logits out.
        out: the file, or its folder; None: beside the checkpoint.
        images: pictures to prove it on and, for int8, to calibrate with; None: those of the run.
        root: of the relative paths of a table.
        largest_difference: of a probability from the checkpoint's; int8 is measured and not bound by it.

    Raises:
        ValueError: settings, no pictures to calibrate with, a place that cannot be written, or too large a difference.
    """
    path = check_asked(ckpt, format=format, preprocessing=preprocessing, out=out, largest_difference=largest_difference)
    for package in ONNX_PACKAGES if format != "torch_export" else ():
        of_extra(package, f"format={format}")
    before = Checkpoint(Path(ckpt), "cpu")
    splits = known_pictures(Path(ckpt), images, root)
    calibration = _calibration(splits, images) if format == "int8" else []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        _make(before, format, preprocessing, calibration, made)
        after = _program(made, preprocessing, before) if format == "torch_export" else OnnxFile(made, "cpu")
        found = evidence(splits, ("val", "train", ""), MEASURED_ON if format == "int8" else PROVED_ON)
        proof = prove(before, after, found, native_sizes=preprocessing)
        if format != "int8" and not proof.largest_difference <= largest_difference:
            raise ValueError(
                f"format={format}: {proof.in_words()}, which is above largest_difference={largest_difference:g}; nothing was "
                "written. Please report this with the name of the network"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, made.read_bytes())
        except OSError as error:
            raise ValueError(f"out={path}: cannot be written ({error.strerror}); use out=FILE or out=DIR") from error
    return Exported(path, proof, len(calibration))


def _calibration(splits: dict[str, list[Picture]], images) -> list[Picture]:
    """Training pictures, or those that are given without a split."""
    pictures = splits.get("train") or splits.get("")
    if not pictures:
        whence = f"images={images} has none" if images is not None else "those of the run are not to be had"
        raise ValueError(f"format=int8 needs training pictures, and {whence}; give some: images=DIR")
    return spread(pictures, CALIBRATED_ON)


def _make(before: Checkpoint, format: str, preprocessing: bool, calibration: list[Picture], path: Path) -> None:
    description = before.description
    more = {"format": format, "decoder": DECODER, "version": importlib.metadata.version("justenough")}
    texts = description.as_metadata() | {name: json.dumps(value) for name, value in more.items()}
    if format == "torch_export":
        graphs.save_program(before.network, description, path, {TEXTS: json.dumps(texts)}, preprocessing)
        return
    graph = graphs.network_graph(before.network, description.image_size)
    if format == "int8":
        graph = quantise(graph, _normalised(calibration, before))
    if preprocessing:
        graph = graphs.whole_graph(graph, description)
    graphs.save_onnx(graph, path, texts)


def _normalised(pictures: list[Picture], before: Checkpoint) -> Iterator[np.ndarray]:
    """Pictures as the network gets them, (1, 3, S, S) each."""
    size, mean, std = before.description.image_size, before.description.mean, before.description.std
    for picture in pictures:
        pixels = np.array(resize(open_picture(picture.file, size), size))[None]
        yield np.ascontiguousarray(normalise(as_batch(pixels), mean, std).numpy())


def _program(path: Path, preprocessing: bool, before: Checkpoint):
    """A .pt2 file as a function of pictures (N, H, W, 3) to probabilities."""
    module = torch.export.load(path).module()

    def answer(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if preprocessing:
                return module(torch.tensor(pixels)).numpy()
            batch = normalise(as_batch(pixels), before.description.mean, before.description.std).contiguous()
            return softmax(module(batch).numpy())

    return answer
