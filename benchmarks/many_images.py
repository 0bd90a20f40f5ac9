"""A hundred thousand small images against a thousand: reading, auditing, memory, and time an image in an epoch.

    python benchmarks/many_images.py [--count 100000] [--repeats 5]

Makes JPEGs of 32 x 32 pixels in a temporary folder; each measurement is a process of its own. Reading is measured once
(the first time builds the pixel store), an epoch of the loader `--repeats` times, alternating. Writes
outputs/benchmarks/many_images.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MEASURE = """
import json, logging, os, resource, sys, time
from hydra import compose, initialize_config_dir
import engine.cli
from engine.config.instantiate import build
root, cache = sys.argv[1:]
with initialize_config_dir(os.path.abspath("conf"), version_base="1.3"):
    config = compose("train", ["datamodule=image_folder", f"datamodule.root={root}", f"datamodule.cache={cache}",
                               "model.image_size=32"])
import datamodules.image_datamodule
data = build(config, "datamodule", augmentation=build(config, "augmentation"))
data.setup()
loader = data.train_dataloader()
started, images = time.perf_counter(), 0
for batch in loader:
    images += len(data.on_after_batch_transfer(batch, 0)["rows"])
epoch_s = time.perf_counter() - started
memory = open("/proc/self/smaps_rollup").read().split()
anonymous_kib = int(memory[memory.index("Anonymous:") + 1])
print(json.dumps({"read_s": data.read_s, "us_a_image": epoch_s / images * 1e6, "anonymous_mib": anonymous_kib / 1024,
                  "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def make(root: Path, count: int) -> Path:
    """`count` different small images in two classes."""
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


def measure(root: Path, cache: Path) -> dict:
    """One process: reads the folder, audits it, and goes through one epoch of the training loader."""
    command = [sys.executable, "-c", MEASURE, str(root), str(cache)]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: make(Path(folder) / str(count), count) for count in (1000, arguments.count)}
        for _ in range(arguments.repeats):
            for count, root in roots.items():
                results.setdefault(str(count), []).append(measure(root, Path(folder) / "cache"))
    for count, runs in results.items():
        print(f"{int(count):,} images: first reading {runs[0]['read_s']:.1f} s, later {runs[-1]['read_s']:.1f} s")
        for key in ("us_a_image", "anonymous_mib", "peak_resident_mib"):
            values = [run[key] for run in runs]
            spread = f"({min(values):.1f} to {max(values):.1f}), n = {len(values)}"
            print(f"  {key:18} median {statistics.median(values):8.1f}  {spread}")
    out = PROJECT / "outputs" / "benchmarks" / "many_images.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, "at": time.strftime("%Y-%m-%d")}, indent=2) + "\n")


if __name__ == "__main__":
    main()
