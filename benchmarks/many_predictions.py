"""Whether the memory of predict.py grows with the number of images.

    python benchmarks/many_predictions.py --ckpt FILE [--counts 20000 100000] [--repeats 3]

Makes JPEGs of 32 x 32 pixels in a temporary folder; each measurement is a process of its own, alternating. Writes
outputs/benchmarks/many_predictions.json.
"""

import functools
import json
import tempfile
from pathlib import Path

from many_images import make_jpegs
from timing import alternate, parser, report, run_python

MEASURE = """
import json, resource, time
started = time.perf_counter()
import predict
predict.cli.run_cli(predict.main)
print(json.dumps({"wall time, s": time.perf_counter() - started,
                  "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(ckpt: Path, root: Path, count: int, out: Path) -> dict[str, float]:
    """Run `python predict.py` on the images of a folder, in one process."""
    _, printed = run_python("-c", MEASURE, f"ckpt={ckpt}", f"images={root}", f"out={out}", "batch_size=64")
    found = json.loads(printed.splitlines()[-1])
    return found | {"microseconds an image": found["wall time, s"] / count * 1e6}


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--ckpt", required=True, type=Path)
    options.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000])
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, ckpt = Path(name), args.ckpt.resolve()
        roots = {count: make_jpegs(folder / str(count), count) for count in args.counts}
        measures = {
            f"{count:,} images": functools.partial(measure, ckpt, root, count, folder / "predictions.csv")
            for count, root in roots.items()
        }
        report("many_predictions", alternate(measures, args.repeats))


if __name__ == "__main__":
    main()
