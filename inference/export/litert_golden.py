"""Golden vectors: images as bytes with the probabilities that are expected of them, by which a developer checks another device.

N images, S pixels a side, K classes.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from common.atomic_io import write_json
from inference.export.file_format import Computes, TrainedModel
from inference.export.verify import SYNTHETIC, VerificationImages, decoded, spread

N_GOLDEN = 20  # images
EXAMPLES = Path(__file__).parent / "litert_examples"  # Classifier.kt, Classifier.swift, classify.py; of every network
IMAGES, EXPECTED = "images.bin", "expected.json"


def write_golden(
    folder: Path, model: TrainedModel, computes: Computes, reference: Computes | None, made_up: bool
) -> str:
    """Write golden/images.bin, (N, S, S, 3) uint8, and golden/expected.json; return which images they are.

    Args:
        computes: the file in LiteRT's interpreter.
        reference: the same with its plain kernels, where other devices may round in another way; None: they hardly do.
        made_up: images of noise in place of those that the file is compared on.
    """
    chosen = [] if made_up else spread(model.compared.images, N_GOLDEN)
    images = VerificationImages(chosen, model.compared.description)
    pixels = np.stack([model.description.pixels(image) for image, _ in decoded(images, model.description)])
    expected = computes(pixels)
    tolerance = 1e-4
    if reference:
        tolerance = max(0.01, 2 * float(np.abs(expected - reference(pixels)).max()))
    what = f"{len(pixels)} of the {images.description}" if chosen else SYNTHETIC
    folder.mkdir()
    (folder / IMAGES).write_bytes(pixels.tobytes())
    content = {
        "images": what,
        "image_size": model.description.image_size,
        "fit": model.description.fit,
        "interpolation": model.description.interpolation,
        "tolerance": round(tolerance, 6),
        "probabilities": rounded(expected),
        "checkpoint": rounded(model.probabilities(pixels)),
    }
    write_json(folder / EXPECTED, content)
    return what


def read_golden(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, S, S, 3) uint8 and the expected probabilities (N, K)."""
    content = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    side = content["image_size"]
    images = np.frombuffer((folder / IMAGES).read_bytes(), np.uint8).reshape(-1, side, side, 3)
    return images, np.array(content["probabilities"])


def copy_examples(folder: Path) -> None:
    """Copy the programs that check a device by the golden vectors."""
    folder.mkdir()
    for file in EXAMPLES.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def rounded(probabilities: np.ndarray) -> list[list[float]]:
    """Return (N, K) as lists, to 7 digits: float32 has no more."""
    return [[round(float(p), 7) for p in row] for row in probabilities]
