"""Measure how long the search for near duplicates takes on images of fixed cameras, and how many planted ones it finds.

    python -m benchmarks.near_duplicates [--images 3000 20000 100000] [--cameras 1] [--repeats 1]

The frames are made up, 64 x 64: a scene with one to four boxes, exposure, wandering light and noise. Among them are 100 copies
of each kind: brightness +3% and +10%, a shift by 1%, JPEG at quality 50, a crop of 3%. Measures the first search and a later
one, which finds its answers cached: wall and CPU seconds, memory, the share of copies found, and groups without a planted copy.
Writes outputs/benchmarks/near_duplicates.json.
"""

import hashlib
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.timing import alternate, parser, report
from datamodules.image_stats import ImageStats
from datamodules.near_duplicates import connected, find_pairs

SIDE, PLANTED = 64, 100
Y, X = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5


def to_bytes(frame: np.ndarray) -> np.ndarray:
    return frame.clip(0, 255).round().astype(np.uint8)


def jpeg(frame: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file).convert("L"))


def crop(frame: np.ndarray) -> np.ndarray:
    box = (0.01 * SIDE, 0.02 * SIDE, 0.98 * SIDE, 0.99 * SIDE)
    return np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


CHANGES = {
    "brightness +3%": lambda frame: to_bytes(frame * 1.03),
    "brightness +10%": lambda frame: to_bytes(frame * 1.1),
    "shift 1%": lambda frame: to_bytes(ndimage.shift(frame.astype(float), 0.01 * SIDE, order=1, mode="nearest")),
    "JPEG": jpeg,
    "crop 3%": crop,
}


def scene(generator: np.random.Generator) -> np.ndarray:
    smooth = ndimage.gaussian_filter(generator.normal(size=(SIDE, SIDE)), 5)
    scene = smooth / smooth.std() * 30 + 120
    for _ in range(12):
        x, y, width, height = *generator.integers(0, 56, 2), *generator.integers(4, 24, 2)
        scene[y : y + height, x : x + width] += generator.normal(0, 30)
    return scene + ndimage.gaussian_filter(generator.normal(size=(SIDE, SIDE)), 1) * 25


def frame(generator: np.random.Generator, scene: np.ndarray, hour: float) -> np.ndarray:
    frame = scene.copy()
    for _ in range(generator.integers(1, 5)):
        width, height = generator.integers(3, 10, 2)
        x, y = generator.integers(0, SIDE - width), generator.integers(0, SIDE - height)
        frame[y : y + height, x : x + width] = generator.uniform(20, 235)
    light = generator.uniform(0.8, 1.2) * (1 + 0.3 * np.sin(hour) * X + 0.2 * np.cos(hour) * Y)
    return to_bytes(frame * light + generator.normal(0, 3, frame.shape))


class Frames:
    """Images in memory, with the interface of a pixel cache."""

    def __init__(self, count: int, cameras: int, folder: Path):
        generator = np.random.default_rng(0)
        scenes, own = [scene(generator) for _ in range(cameras)], count - PLANTED * len(CHANGES)
        self.frames = np.empty((count, SIDE, SIDE), np.uint8)
        for row in range(own):
            self.frames[row] = frame(generator, scenes[row % cameras], 44 * row / own)
        self.planted = {how: [] for how in CHANGES}
        for place, original in enumerate(generator.choice(own, count - own, replace=False)):
            how = list(CHANGES)[place % len(CHANGES)]
            self.frames[own + place] = CHANGES[how](self.frames[original])
            self.planted[how].append((int(original), own + place))
        self.path, self.stats = folder / "pixels.npy", ImageStats.empty(count)
        for row, pixels in enumerate(self.frames):
            self.stats.thumbnails[row] = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR)
            self.stats.fingerprints[row] = hashlib.blake2b(pixels, digest_size=8).hexdigest()

    def __getitem__(self, row: int) -> np.ndarray:
        return np.repeat(self.frames[row][:, :, None], 3, axis=2)


def measure(count: int, cameras: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        frames, found = Frames(count, cameras, Path(folder)), {}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in ("first", "later"):
            started, cpu = time.perf_counter(), time.process_time()
            near = find_pairs(np.arange(count), frames)
            found |= {f"{name}, s": time.perf_counter() - started, f"{name}, CPU s": time.process_time() - cpu}
    found["MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pairs = set(map(tuple, near.pairs.tolist()))
    groups = connected(list(pairs))
    planted = {row for each in frames.planted.values() for pair in each for row in pair}
    found |= {f"found, {how}": float(np.mean([pair in pairs for pair in each])) for how, each in frames.planted.items()}
    found["groups without a planted copy"] = sum(planted.isdisjoint(group) for group in groups)
    found["largest group"] = max(map(len, groups), default=0)
    return found


def main() -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--images", type=int, nargs="+", default=[3000, 20_000, 100_000])
    options.add_argument("--cameras", type=int, default=1)
    args = options.parse_args()
    fewest = 2 * PLANTED * len(CHANGES)  # each planted copy has an original of its own
    if min(args.images) < fewest:
        options.error(
            f"--images {min(args.images)}: use {fewest:,} or more, since {fewest // 2:,} of them are planted copies"
        )
    measures = {f"{count:,}": lambda count=count: measure(count, args.cameras) for count in args.images}
    report("near_duplicates", alternate(measures, args.repeats), cameras=args.cameras)


if __name__ == "__main__":
    main()
