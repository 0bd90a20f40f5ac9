"""From a checkpoint to a file: made under another name, proved, and only then put where it belongs."""

import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.atomic_io import write_bytes
from datamodules.decode import DECODER, open_image, resize
from datamodules.normalize import as_batch, normalize
from inference.backends import CheckpointBackend, OnnxBackend, import_onnx_extra, softmax
from inference.export import graphs
from inference.export.arguments import check_export_arguments
from inference.export.quantize import quantize
from inference.export.verify import (
    CALIBRATED_ON,
    MEASURED_ON,
    PROVED_ON,
    Verification,
    compare_outputs,
    known_images,
    spread,
    verification_images,
)
from inference.image_inputs import ImageInput

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TEXTS = "justenough.json"  # the metadata within a .pt2 file


class Exported(NamedTuple):
    """What was written, and what it was found to do."""

    path: Path
    proof: Verification
    calibrated_on: int  # images; 0 where nothing was calibrated


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
        preprocessing: uint8 images of any size in and probabilities out, or normalized images in and logits out.
        out: the file, or its folder; None: beside the checkpoint.
        images: images to prove it on and, for int8, to calibrate with; None: those of the run.
        root: of the relative paths of a table.
        largest_difference: of a probability from the checkpoint's; int8 is measured and not bound by it.

    Raises:
        ValueError: settings, no images to calibrate with, a place that cannot be written, or too large a difference.
    """
    path = check_export_arguments(
        ckpt, format=format, preprocessing=preprocessing, out=out, largest_difference=largest_difference
    )
    for package in ONNX_PACKAGES if format != "torch_export" else ():
        import_onnx_extra(package, f"format={format}")
    before = CheckpointBackend(Path(ckpt), "cpu")
    splits = known_images(Path(ckpt), images, root)
    calibration = _calibration(splits, images) if format == "int8" else []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        _make(before, format, preprocessing, calibration, made)
        after = _program(made, preprocessing, before) if format == "torch_export" else OnnxBackend(made, "cpu")
        found = verification_images(splits, ("val", "train", ""), MEASURED_ON if format == "int8" else PROVED_ON)
        proof = compare_outputs(before, after, found, native_sizes=preprocessing)
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


def _calibration(splits: dict[str, list[ImageInput]], images) -> list[ImageInput]:
    """Training images, or those that are given without a split."""
    sources = splits.get("train") or splits.get("")
    if not sources:
        whence = f"images={images} has none" if images is not None else "those of the run are not to be had"
        raise ValueError(f"format=int8 needs training images, and {whence}; give some: images=DIR")
    return spread(sources, CALIBRATED_ON)


def _make(
    before: CheckpointBackend, format: str, preprocessing: bool, calibration: list[ImageInput], path: Path
) -> None:
    description = before.description
    more = {"format": format, "decoder": DECODER, "version": importlib.metadata.version("justenough")}
    texts = description.as_metadata() | {name: json.dumps(value) for name, value in more.items()}
    if format == "torch_export":
        graphs.save_program(before.network, description, path, {TEXTS: json.dumps(texts)}, preprocessing)
        return
    graph = graphs.network_graph(before.network, description.image_size)
    if format == "int8":
        graph = quantize(graph, _normalized(calibration, before))
    if preprocessing:
        graph = graphs.whole_graph(graph, description)
    graphs.save_onnx(graph, path, texts)


def _normalized(sources: list[ImageInput], before: CheckpointBackend) -> Iterator[np.ndarray]:
    """Images as the network gets them, (1, 3, S, S) each."""
    size, mean, std = before.description.image_size, before.description.mean, before.description.std
    for source in sources:
        pixels = np.array(resize(open_image(source.file, size), size))[None]
        yield np.ascontiguousarray(normalize(as_batch(pixels), mean, std).numpy())


def _program(path: Path, preprocessing: bool, before: CheckpointBackend):
    """A .pt2 file as a function of images (N, H, W, 3) to probabilities."""
    module = torch.export.load(path).module()

    def answer(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if preprocessing:
                return module(torch.tensor(pixels)).numpy()
            batch = normalize(as_batch(pixels), before.description.mean, before.description.std).contiguous()
            return softmax(module(batch).numpy())

    return answer
