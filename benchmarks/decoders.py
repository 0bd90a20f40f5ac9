"""Which decoder the pixel store should use: a JPEG file to upright RGB at 256 x 256, one thread.

    python benchmarks/decoders.py --root DIR [--repeats 5]

The photos of DIR and one 12-megapixel JPEG that this script makes; alternating, median (smallest to largest) of the
repeats, milliseconds an image. torchcodec (pip install torchcodec) is left out with a line where it is not installed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from data_pipeline import big_images
from PIL import Image, ImageOps
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

    pixels = decode_image(path.read_bytes())  # (3, H, W), turned as EXIF says
    return F.resize(pixels, [SIZE, SIZE], antialias=True).permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decoders = [pillow_with_draft, pillow_in_full, torchcodec]
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(arguments.root.rglob("*.jpg"))
        big = sorted(big_images(Path(folder), count=4).rglob("*.jpg"))
        try:
            torchcodec(photos[0])
        except ImportError as error:
            print(f"torchcodec is left out: {error}")
            decoders.remove(torchcodec)
        for name, files in (("photos", photos), ("12 megapixels", big)):
            times = {decoder: [] for decoder in decoders}
            for _ in range(arguments.repeats):
                for decoder in decoders:
                    started = time.perf_counter()
                    for file in files:
                        decoder(file)
                    times[decoder].append((time.perf_counter() - started) / len(files) * 1e3)
            for decoder, values in times.items():
                print(
                    f"{name:14} {decoder.__name__:18} {statistics.median(values):7.2f} "
                    f"({min(values):.2f} to {max(values):.2f}) ms an image, {len(files)} images, n = {len(values)}"
                )


if __name__ == "__main__":
    main()
