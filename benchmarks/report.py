"""A report of a thousand made-up runs: seconds and memory.

    python benchmarks/report.py [--count 1000] [--images 200] [--repeats 3]

Each run has metrics.csv of 12 epochs and predictions of test and validation. `--settings` is in how many rows the runs
end up, each with count / settings seeds. A measurement is `python report.py`, a process of its own. Writes
outputs/benchmarks/report.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))


def make(root: Path, count: int, settings: int, images: int) -> None:
    """`count` runs, some networks cheaper and worse than others."""
    from tests.support.fake_runs import make_run

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


def measure(root: Path) -> tuple[float, float]:
    """Seconds, and the largest memory of any child until now in MiB."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "report.py", f"runs={root}"], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--settings", type=int, default=1000)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make(root, options.count, options.settings, options.images)
        measured = [measure(root) for _ in range(options.repeats)]
        page_mib = (root / "report.html").stat().st_size / 2**20
    seconds = sorted(s for s, _ in measured)
    found = {
        **vars(options),
        "median_s": statistics.median(seconds),
        "smallest_s": seconds[0],
        "largest_s": seconds[-1],
    }
    found |= {"peak_memory_mib": measured[-1][1], "page_mib": page_mib}
    print(json.dumps({key: round(value, 2) for key, value in found.items()}))
    folder = PROJECT / "outputs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
