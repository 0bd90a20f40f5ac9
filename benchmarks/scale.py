"""Measure what many images cost: the first reading, starting a job with them cached, memory, and the speed of the loader.

    python -m benchmarks.scale [--counts 1000 100000 1000000] [--side 32] [--image-size 32] [--folder DIR] [--repeats 3]

The images are made up: one folder per class, noise of 8 x 8 pixels enlarged to SIDE, so no two are alike. For each count and
each `datamodule.cache_format`, in a process of its own:
- first: seconds to list, decode, compare and audit them, and peak memory;
- again: the same with all of it cached, and an epoch of the loader with the study's augmentation, up to 20,000 images.
Memory is what the data add to the process with all its imports: its own memory, and mapped pages of files, which the system
reclaims when memory is short. Writes outputs/benchmarks/scale.json.
"""

import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path

from benchmarks.timing import alternate, parser, report, run_python

CLASSES = 100
MOST = 20_000  # images of an epoch
PART = """
import json, sys, threading, time
from hydra import compose, initialize_config_dir
from engine.cli import CONF
from engine.config.instantiate import instantiate
from engine.config.validate import validate
import engine.run.stages

def resident_mib():
    own, mapped = (line.split()[1] for line in open("/proc/self/status") if line.startswith(("RssAnon", "RssFile")))
    return int(own) / 2**10, int(mapped) / 2**10

with initialize_config_dir(str(CONF), version_base="1.3"):
    config = compose("train", overrides=sys.argv[2:])
most, peak, ended = int(sys.argv[1]), (0, 0), threading.Event()
def look():
    global peak
    peak = tuple(map(max, peak, resident_mib()))
def watch():
    while not ended.wait(0.02):
        look()
before = resident_mib()
threading.Thread(target=watch, daemon=True).start()
data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
started, cpu = time.perf_counter(), time.process_time()
data.setup()
found = {"s": time.perf_counter() - started, "s of the processor": time.process_time() - cpu}
if most:
    started, images = time.perf_counter(), 0
    for batch in data.train_dataloader():
        images += len(batch["labels"])
        if images >= most:
            break
    found["images/s"] = images / (time.perf_counter() - started)
ended.set()
look()
found["own memory, MiB"], found["mapped memory, MiB"] = (most - base for most, base in zip(peak, before))
print(json.dumps(found))
"""


def make_images(root: Path, count: int, side: int) -> Path:
    """Make `count` JPEGs, unless the folder exists."""
    if not root.is_dir():
        for label in range(CLASSES):
            (root / f"class_{label:02d}").mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(_make_part, repeat(root), range(0, count, 1000), repeat(count), repeat(side)))
    return root


def _make_part(root: Path, begin: int, count: int, side: int) -> None:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(begin)
    for number in range(begin, min(begin + 1000, count)):
        noise = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = root / f"class_{number % CLASSES:02d}" / f"image_{number:07d}.jpg"
        noise.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)


def measure(root: Path, cache: Path, image_size: int, form: str, most: int) -> dict[str, float]:
    """Set up the data module in a new process, and time `most` images of the loader's epoch; 0: none."""
    _, printed = run_python(
        "-c", PART, most, "datamodule=image_folder", f"datamodule.root={root}", f"datamodule.cache={cache}",
        f"model.image_size={image_size}", f"datamodule.cache_format={form}",
    )  # fmt: skip
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--counts", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    options.add_argument("--side", type=int, default=32)
    options.add_argument("--image-size", type=int, default=32)
    options.add_argument("--formats", nargs="+", default=["uint8", "jpeg"])
    options.add_argument("--folder", type=Path, help="keeps the images; missing ones are made")
    args = options.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        measures = {}
        for count in args.counts:
            root = make_images((args.folder or Path(name)) / f"{count}", count, args.side)
            for form in args.formats:
                cache = Path(name) / f"cache_{count}_{form}"
                of = partial(measure, root, cache, args.image_size, form)

                def first(cache=cache, of=of) -> dict[str, float]:
                    shutil.rmtree(cache, ignore_errors=True)
                    return of(0)

                measures[f"{count:,} as {form}, first"] = first
                measures[f"{count:,} as {form}, again"] = partial(of, MOST)
        measured = alternate(measures, args.repeats)
    report("scale", measured, counts=args.counts, side=args.side, image_size=args.image_size)


if __name__ == "__main__":
    main()
