"""Whether the memory of predict.py grows with the number of images.

    python benchmarks/many_predictions.py --ckpt FILE [--counts 20000 100000] [--repeats 3]

Makes JPEGs of 32 x 32 pixels in a temporary folder; each measurement is a process of its own, alternating. Writes
outputs/benchmarks/many_predictions.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from many_images import make

PROJECT = Path(__file__).resolve().parent.parent
MEASURE = """
import json, resource, time
started = time.perf_counter()
import predict
predict.command_line.start(predict.main)
print(json.dumps({"wall_s": time.perf_counter() - started,
                  "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(ckpt: str, root: Path, out: Path) -> dict:
    """One process of `python predict.py`."""
    command = [sys.executable, "-c", MEASURE, f"ckpt={ckpt}", f"images={root}", f"out={out}", "batch_size=64"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ckpt = str(Path(arguments.ckpt).resolve())
    results: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: make(Path(folder) / str(count), count) for count in arguments.counts}
        for _ in range(arguments.repeats):
            for count, root in roots.items():
                found = measure(ckpt, root, Path(folder) / "predictions.csv")
                results.setdefault(str(count), []).append(found | {"us_a_image": found["wall_s"] / count * 1e6})
    for count, runs in results.items():
        print(f"{int(count):,} images")
        for key in runs[0]:
            values = [run[key] for run in runs]
            spread = f"({min(values):.1f} to {max(values):.1f}), n = {len(values)}"
            print(f"  {key:18} median {statistics.median(values):8.1f}  {spread}")
    out = PROJECT / "outputs" / "benchmarks" / "many_predictions.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, "at": time.strftime("%Y-%m-%d")}, indent=2) + "\n")


if __name__ == "__main__":
    main()
