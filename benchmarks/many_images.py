"""A hundred thousand small images against a thousand: reading, auditing, memory, and time an image in an epoch.

    python benchmarks/many_images.py [--count 100000] [--repeats 5]

Makes JPEGs of 32 x 32 pixels in a temporary folder; each measurement is a process of its own, alternating. The first
reading builds the pixel cache: it is the largest value of `read, s`. Writes outputs/benchmarks/many_images.json.
"""

import functools
import json
import tempfile
from pathlib import Path

from timing import alternate, parser, report, run_python

MEASURE = """
import json, os, resource, sys, time
from hydra import compose, initialize_config_dir
import engine.cli
from engine.config.instantiate import instantiate
root, cache = sys.argv[1:]
with initialize_config_dir(os.path.abspath("conf"), version_base="1.3"):
    config = compose("train", ["datamodule=image_folder", f"datamodule.root={root}", f"datamodule.cache={cache}",
                               "model.image_size=32"])
data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
data.setup()
loader = data.train_dataloader()
started, images = time.perf_counter(), 0
for batch in loader:
    images += len(data.on_after_batch_transfer(batch, 0)["rows"])
epoch_s = time.perf_counter() - started
memory = open("/proc/self/smaps_rollup").read().split()
print(json.dumps({"read, s": data.read_s, "microseconds an image": epoch_s / images * 1e6,
                  "anonymous memory, MiB": int(memory[memory.index("Anonymous:") + 1]) / 1024,
                  "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def make_jpegs(root: Path, count: int) -> Path:
    """Make `count` different small images in two classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(count)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
        image.save(root / "ab"[index % 2] / f"{index:06}.jpg", quality=85)
    return root


def measure(root: Path, cache: Path) -> dict[str, float]:
    """Read and audit a folder, and run one epoch of the training loader, in one process."""
    return json.loads(run_python("-c", MEASURE, root, cache)[1].splitlines()[-1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=100_000)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures = {
            f"{count:,} images": functools.partial(measure, make_jpegs(folder / str(count), count), folder / "cache")
            for count in (1000, args.count)
        }
        report("many_images", alternate(measures, args.repeats))


if __name__ == "__main__":
    main()
