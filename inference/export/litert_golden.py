"""Golden vectors: images as bytes and the probabilities expected for them, with which developers check another device.

N images, S pixels a side, K classes.
"""

import json
import shutil
from math import ceil
from pathlib import Path

import numpy as np

from common.atomic_io import write_json
from inference.export.file_format import Computes, TrainedModel
from inference.export.verify import SYNTHETIC, VerificationImages, decoded

N_GOLDEN = 20  # images
TOLERANCE, INT8_TOLERANCE = 1e-4, 0.05  # of a probability
INT8_NEEDED = 0.9  # share of the images that have to agree with the fast or the plain kernels
EXAMPLES = Path(__file__).parent / "litert_examples"  # Classifier.kt, Classifier.swift, classify.py; of every network
IMAGES, EXPECTED = "images.bin", "expected.json"


def write_golden(
    folder: Path, model: TrainedModel, computes: Computes, plain: Computes, exact: bool, made_up: bool
) -> str:
    """Write golden/images.bin, (N, S, S, 3) uint8, and golden/expected.json; return which images they are.

    Args:
        computes: the file in LiteRT's interpreter.
        plain: the same with its plain kernels, which round in other places, like tflite-micro's.
        exact: whether other devices have to agree on all images; in 8 bits a few may be rounded the other way.
        made_up: use images of noise instead of those that the file is compared on.
    """
    images = VerificationImages([], SYNTHETIC) if made_up else model.compared.part(N_GOLDEN)
    pixels = np.stack([model.description.pixels(image) for image, _ in decoded(images, model.description)])
    what = images.description
    folder.mkdir()
    (folder / IMAGES).write_bytes(pixels.tobytes())
    content = {
        "images": what,
        "image_size": model.description.image_size,
        "fit": model.description.fit,
        "interpolation": model.description.interpolation,
        "tolerance": TOLERANCE if exact else INT8_TOLERANCE,
        "needed": len(pixels) if exact else ceil(INT8_NEEDED * len(pixels)),
        "probabilities": rounded(computes(pixels)),
        "plain": rounded(plain(pixels)),
        "checkpoint": rounded(model.probabilities(pixels)),
    }
    write_json(folder / EXPECTED, content)
    return what


def read_golden(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images (N, S, S, 3) uint8 and the probabilities (N, K) by fast and by plain kernels."""
    content = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    side = content["image_size"]
    images = np.frombuffer((folder / IMAGES).read_bytes(), np.uint8).reshape(-1, side, side, 3)
    return images, np.array(content["probabilities"]), np.array(content["plain"])


def copy_examples(folder: Path) -> None:
    """Copy the programs that check a device with the golden vectors."""
    folder.mkdir()
    for file in EXAMPLES.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def rounded(probabilities: np.ndarray) -> list[list[float]]:
    """Return (N, K) as lists, to 7 digits: float32 has no more."""
    return [[round(float(p), 7) for p in row] for row in probabilities]
