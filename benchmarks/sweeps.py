"""A sweep of eight jobs one after the other, and side by side with hydra/launcher=joblib: whole processes, alternating.

    python benchmarks/sweeps.py --root DIR [--repeats 3] [--jobs 8] [OVERRIDE ...]

Writes outputs/benchmarks/sweeps.json.
"""

import functools
import itertools
import json
import os
import tempfile
from pathlib import Path

from timing import alternate, parser, ratios, report, run_python, spread

SETTINGS = ["datamodule=image_folder", "trainer=cpu", "trainer.max_epochs=2", "model.weights=null", "logger=none"]


def sweep(launcher: str, jobs: int, settings: list[str], folder: Path) -> float:
    """Measure the seconds from the start of the command to its end."""
    seconds, _ = run_python(
        "train.py",
        "-m",
        f"seed=range(1,{jobs + 1})",
        *settings,
        f"hydra/launcher={launcher}",
        f"hydra.sweep.dir={folder}",
    )
    records = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert len(records) == jobs and all(record["status"] == "finished" for record in records)
    return seconds


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--root", required=True, type=Path, help="folder of images")
    options.add_argument("--jobs", type=int, default=8)
    options.add_argument("overrides", nargs="*", help="further settings of train.py")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name, f"sweep-{index}") for index in itertools.count())
        settings = [
            *SETTINGS,
            f"datamodule.root={args.root.resolve()}",
            f"datamodule.cache={name}/cache",
            *args.overrides,
        ]

        def measure(launcher: str, jobs: int = args.jobs) -> float:
            return sweep(launcher, jobs, settings, next(folders))

        measure("basic", jobs=1)  # builds the pixel cache
        measured = alternate({each: functools.partial(measure, each) for each in ("basic", "joblib")}, args.repeats)
    report("sweeps", measured, unit="s", jobs=args.jobs, cores=len(os.sched_getaffinity(0)))
    print(f"basic / joblib: {spread(ratios(measured['basic'], measured['joblib']))}")


if __name__ == "__main__":
    main()
