"""Which decoder the pixel cache should use: a JPEG file to upright RGB at 256 x 256, one thread.

    python benchmarks/decoders.py --root DIR [--repeats 5]

The photos of DIR and 12-megapixel JPEGs that this script makes; alternating, milliseconds an image. torchcodec (pip install
torchcodec) is skipped with a line where it is not installed. Writes outputs/benchmarks/decoders.json.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data_pipeline import big_images
from PIL import Image, ImageOps
from timing import alternate, parser, report
from torchvision.transforms.v2 import functional as F

from datamodules.decode import open_image, resize

SIZE = 256


def pillow_with_draft(path: Path) -> np.ndarray:
    return np.asarray(resize(open_image(path, SIZE), SIZE))


def pillow_in_full(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(resize(ImageOps.exif_transpose(image).convert("RGB"), SIZE))


def torchcodec(path: Path) -> np.ndarray:
    from torchcodec.decoders import decode_image

    pixels = decode_image(path.read_bytes())  # (3, H, W), rotated according to its EXIF
    return F.resize(pixels, [SIZE, SIZE], antialias=True).permute(1, 2, 0).numpy()


def ms_an_image(decoder: Callable[[Path], np.ndarray], files: list[Path]) -> float:
    """Measure the decoding of all files."""
    started = time.perf_counter()
    for file in files:
        decoder(file)
    return (time.perf_counter() - started) / len(files) * 1e3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", required=True, type=Path)
    args = options.parse_args()
    torch.set_num_threads(1)
    decoders = [pillow_with_draft, pillow_in_full, torchcodec]
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(args.root.rglob("*.jpg"))
        big = sorted(big_images(Path(folder), count=4).rglob("*.jpg"))
        try:
            torchcodec(photos[0])
        except ImportError as error:
            print(f"torchcodec is skipped: {error}")
            decoders.remove(torchcodec)
        measures = {
            f"{name}, {decoder.__name__}, ms an image": functools.partial(ms_an_image, decoder, files)
            for name, files in ((f"{len(photos)} photos", photos), ("12 megapixels", big))
            for decoder in decoders
        }
        report("decoders", alternate(measures, args.repeats))


if __name__ == "__main__":
    main()
