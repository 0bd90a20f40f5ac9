"""Export a checkpoint: write the file to a temporary folder, verify it, and only then move it to its place."""

import importlib.metadata
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from common.atomic_io import write_bytes
from common.errors import UserError
from datamodules.decode import DECODER, open_image, resize
from inference.arguments import check_export_arguments
from inference.backends import CheckpointBackend, OnnxBackend, import_onnx_extra, softmax
from inference.export.verify import (
    N_CALIBRATION,
    N_VERIFICATION,
    N_VERIFICATION_INT8,
    Verification,
    compare_outputs,
    known_images,
    spread,
    verification_images,
)
from inference.image_inputs import ImageInput

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA = "justenough.json"  # the metadata within a .pt2 file


class Exported(NamedTuple):
    """Hold the file that was written and how it compares with the checkpoint."""

    path: Path
    verification: Verification
    calibrated_on: int  # images; 0 where nothing was calibrated


def run(config: DictConfig) -> None:
    """Export a checkpoint and print the file, its inputs and outputs, and how it compares with the checkpoint."""
    settings = {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}
    exported = export(**settings)
    shape = "images (N, H, W, 3) uint8 of any size in, probabilities out"
    if not config.preprocessing:
        shape = "normalized images (N, 3, S, S) in, logits out"
    if exported.calibrated_on:
        print(f"calibrated on {exported.calibrated_on:,} images")
    print(f"compared with the checkpoint on {exported.verification.describe()}")
    if accuracies := exported.verification.describe_accuracies():
        print(accuracies)
    print(f"{exported.path}: {exported.path.stat().st_size / 2**20:.2f} MiB, {shape}")
    if exported.path.suffix == ".onnx":
        print(f"Label images with it: python predict.py ckpt={shlex.quote(str(exported.path))} images=DIR")


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
    """Write the file and verify it against the checkpoint.

    Args:
        format: onnx, int8 or torch_export.
        preprocessing: uint8 images of any size in and probabilities out, or normalized images in and logits out.
        out: the file, or its folder; None: beside the checkpoint.
        images: images to verify it on and, for int8, to calibrate with; None: those of the run.
        root: folder of the relative paths of a table.
        largest_difference: allowed between a probability and the checkpoint's; int8 is measured, but not limited by it.

    Raises:
        UserError: wrong settings, no images to calibrate with, a place that cannot be written, or too large a difference.
    """
    path = check_export_arguments(
        ckpt, format=format, preprocessing=preprocessing, out=out, largest_difference=largest_difference
    )
    for package in ONNX_PACKAGES if format != "torch_export" else ():
        import_onnx_extra(package, f"format={format}")
    checkpoint = CheckpointBackend(Path(ckpt), "cpu")
    splits = known_images(Path(ckpt), images, root)
    calibration = _calibration_images(splits, images) if format == "int8" else []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        _write(checkpoint, format, preprocessing, calibration, file)
        opened = (
            _open_program(file, preprocessing, checkpoint) if format == "torch_export" else OnnxBackend(file, "cpu")
        )
        n = N_VERIFICATION_INT8 if format == "int8" else N_VERIFICATION
        compared = verification_images(splits, ("val", "train", ""), n)
        verification = compare_outputs(checkpoint, opened, compared, native_sizes=preprocessing)
        if format != "int8" and not verification.largest_difference <= largest_difference:
            raise UserError(
                f"format={format}: {verification.describe()}, which is above largest_difference={largest_difference:g}; "
                "nothing was written. Please report this with the name of the network"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, file.read_bytes())
        except OSError as error:
            raise UserError(f"out={path}: cannot be written ({error.strerror}); use out=FILE or out=DIR") from error
    return Exported(path, verification, len(calibration))


def _calibration_images(splits: dict[str, list[ImageInput]], images) -> list[ImageInput]:
    """Return training images, or those that are given without a split."""
    candidates = splits.get("train") or splits.get("")
    if not candidates:
        reason = f"images={images} has none" if images is not None else "those of the run are not available"
        raise UserError(f"format=int8 needs training images, and {reason}; give some: images=DIR")
    return spread(candidates, N_CALIBRATION)


def _write(
    checkpoint: CheckpointBackend, format: str, preprocessing: bool, calibration: list[ImageInput], path: Path
) -> None:
    from inference.export import graphs  # late: torch
    from inference.export.quantize import quantize

    description = checkpoint.description
    more = {"format": format, "decoder": DECODER, "version": importlib.metadata.version("justenough")}
    metadata = description.as_metadata() | {name: json.dumps(value) for name, value in more.items()}
    if format == "torch_export":
        extra_files = {METADATA: json.dumps(metadata)}
        graphs.save_program(checkpoint.network, description, path, extra_files, preprocessing)
        return
    graph = graphs.network_graph(checkpoint.network, description.image_size)
    if format == "int8":
        graph = quantize(graph, _normalized(calibration, checkpoint))
    if preprocessing:
        graph = graphs.add_preprocessing(graph, description)
    graphs.save_onnx(graph, path, metadata)


def _normalized(images: list[ImageInput], checkpoint: CheckpointBackend) -> Iterator[np.ndarray]:
    """Yield images as the network takes them, (1, 3, S, S) each."""
    from datamodules.normalize import as_batch, normalize

    description = checkpoint.description
    for image_input in images:
        image = open_image(image_input.file, description.image_size)
        pixels = np.array(resize(image, description.image_size))[None]
        yield np.ascontiguousarray(normalize(as_batch(pixels), description.mean, description.std).numpy())


def _open_program(path: Path, preprocessing: bool, checkpoint: CheckpointBackend) -> Callable[[np.ndarray], np.ndarray]:
    """Return a .pt2 file as a function from images (N, H, W, 3) to probabilities."""
    import torch

    from datamodules.normalize import as_batch, normalize

    module = torch.export.load(path).module()
    description = checkpoint.description

    def compute(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if preprocessing:
                return module(torch.tensor(pixels)).numpy()
            batch = normalize(as_batch(pixels), description.mean, description.std).contiguous()
            return softmax(module(batch).numpy())

    return compute
