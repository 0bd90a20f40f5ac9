"""Measure the seconds and the memory of a report on a thousand made-up runs.

    python -m benchmarks.report [--count 1000] [--images 200] [--repeats 3]

Each run has a metrics.csv with 12 epochs, and predictions on test and validation. `--settings` is the number of rows, each with
count / settings seeds. Each measurement runs `python report.py` as a new process. Writes outputs/benchmarks/report.json.
"""

import resource
import tempfile
from pathlib import Path

from benchmarks.timing import alternate, parser, report, run_python
from tests.support.fake_runs import make_run


def make_runs(root: Path, count: int, settings: int, images: int) -> None:
    """Make `count` runs of `settings` networks, some cheaper and worse than others."""
    for index in range(count):
        row = index % settings
        make_run(
            root / f"run-{index:05}",
            seed=index // settings,
            accuracy=0.7 + 0.2 * row / settings,
            choices={"model": f"network_{row}"},
            n={"val": images, "test": images},
            cost=(1e6 * 1.01**row, 1e5 * 1.008**row, 3 + 0.01 * row),
        )


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--settings", type=int, default=1000)
    options.add_argument("--images", type=int, default=200)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_runs(root, args.count, args.settings, args.images)

        def measure() -> dict[str, float]:
            seconds, _ = run_python("report.py", f"runs={root}")
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest of any child so far
            return {"s": seconds, "memory, MiB": memory, "page, MiB": (root / "report.html").stat().st_size / 2**20}

        report("report", alternate({f"{args.count:,} runs": measure}, args.repeats), **vars(args))


if __name__ == "__main__":
    main()
