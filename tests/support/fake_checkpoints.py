"""Make checkpoints of networks that were never trained, as train.py leaves them, and images of every size and mode."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.run_record import Decision
from lightning_modules.image_classifier import ImageClassifier

DECISION = Decision(
    temperature=1.5, confidence=0.6, fitted_on=20, target_accuracy=0.95, delta=0.1, positive_class="bees",
    threshold_criterion="accuracy", threshold=0.4,
)  # fmt: skip
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Payload:
    """Call a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def make_checkpoint(
    path: Path,
    *,
    classes=("ants", "bees"),
    image_size: int = 48,
    decision: Decision | None = DECISION,
    network: dict | None = None,
    fit: str = "squash",
    mean: list[float] = MEAN,
    interpolation: str = "bilinear",
) -> Path:
    """Save a small network with seeded weights whose predictions differ from image to image."""
    torch.manual_seed(0)
    network = network or {"network": "simple_cnn", "image_size": image_size}
    described = {"classes": list(classes), "image_size": image_size, "mean": mean, "std": STD, "fit": fit}
    described["interpolation"] = interpolation
    model = ImageClassifier(network=network, **described).eval()
    with torch.no_grad():
        last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        images = torch.randn(64, 3, image_size, image_size)
        logits = model(images)
        last.weight.mul_(1 / logits.std())
        last.bias.sub_(model(images).mean(0))
    state = {"epoch": 0, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | ({"decision": asdict(decision)} if decision else {}), path)
    return path


def noisy(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw coarse shapes and fine noise."""
    coarse = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((width, height))
    fine = generator.normal(0, 20, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))


def make_odd_images(folder: Path, count: int) -> list[Path]:
    """Save `count` images of odd sizes, in turn RGB, gray, palette, alpha, CMYK, 16 bits and turned by EXIF."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(count):
        width, height = generator.integers(9, 300, 2).tolist()
        files.append(save_in_mode(noisy(generator, width, height), index % 7, folder / f"{index:03}"))
    return files


def save_in_mode(image: Image.Image, kind: int, stem: Path) -> Path:
    """Save an RGB image in one of seven ways and return the file."""
    options = {}
    if kind in (1, 2, 4):
        image = image.convert({1: "L", 2: "P", 4: "CMYK"}[kind])
    elif kind == 3:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif kind == 5:
        gray = np.asarray(image.convert("L")).astype(np.uint16)
        image = Image.fromarray(256 * gray + 91 * gray % 256)  # the lower byte is another one than the upper
    elif kind == 6:
        exif = image.getexif()
        exif[0x0112] = 6
        options = {"exif": exif}
    file = stem.with_suffix(".jpg" if kind in (0, 4, 6) else ".png")
    image.save(file, **options)
    return file


def odd_copies(files: list[Path], folder: Path, count: int) -> list[Path]:
    """Save `count` images cut out of real ones at odd places and sizes, in turn in the seven ways of `save_in_mode`."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for index in range(count):
        with Image.open(files[index * len(files) // count]) as image:
            image = image.convert("RGB")
        left, top = (int(generator.integers(0, side // 3 + 1)) for side in image.size)
        width, height = (
            int(generator.integers(2 * side // 5, side + 1)) | 1 for side in (image.width - left, image.height - top)
        )
        cut = image.crop((left, top, min(left + width, image.width), min(top + height, image.height)))
        copies.append(save_in_mode(cut, index % 7, folder / f"{index:03}"))
    return copies
