"""Check model.tflite on this machine with its golden images, or label an image: python examples/classify.py [IMAGE]

Needs this folder, and pip install ai-edge-litert numpy; for your own images also pillow.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

FOLDER = Path(__file__).resolve().parent.parent
GOLDEN = json.loads((FOLDER / "golden" / "expected.json").read_text(encoding="utf-8"))
SIZE = GOLDEN["image_size"]
interpreter = Interpreter(str(FOLDER / "model.tflite"))
interpreter.allocate_tensors()
(given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()


def probabilities(pixels: np.ndarray) -> np.ndarray:
    """Return the probability of each class; pixels are (SIZE, SIZE, 3) uint8, red, green, blue."""
    interpreter.set_tensor(given["index"], pixels[None])
    interpreter.invoke()
    return interpreter.get_tensor(taken["index"])[0]


def read(path: str) -> np.ndarray:
    """Return an image as training saw it: upright, RGB, alpha over white, every pixel used when it shrinks."""
    from PIL import Image, ImageOps

    image = Image.open(path)
    image.draft(
        None, (max(512, 2 * SIZE),) * 2
    )  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as in training
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        sys.exit(f"{path}: has more than 8 bits per channel; scale it to 8 first, as in training")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    how = filters[GOLDEN["interpolation"]]
    if GOLDEN["fit"] == "crop":
        return np.asarray(ImageOps.fit(image, (SIZE, SIZE), how))
    if GOLDEN["fit"] == "squash":
        return np.asarray(image.resize((SIZE, SIZE), how))
    width, height = (max(1, int(SIZE * side / max(image.size) + 0.5)) for side in image.size)
    square = Image.new("RGB", (SIZE, SIZE))  # black borders
    square.paste(image.resize((width, height), how), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(square)


if len(sys.argv) > 1:
    labels = (FOLDER / "labels.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    for label, p in zip(labels, probabilities(read(sys.argv[1])), strict=True):
        print(f"{p:.4f} {label}")
else:
    images = np.fromfile(FOLDER / "golden" / "images.bin", np.uint8).reshape(-1, SIZE, SIZE, 3)
    found = np.stack([probabilities(pixels) for pixels in images])
    fast, plain = (np.abs(found - np.array(GOLDEN[key])).max(axis=1) for key in ("probabilities", "plain"))
    agree = (np.minimum(fast, plain) <= GOLDEN["tolerance"]).sum()  # with either way of rounding
    print(f"{agree} of {len(images)} golden images agree within {GOLDEN['tolerance']:g}; {GOLDEN['needed']} have to")
    sys.exit(int(agree < GOLDEN["needed"]))
