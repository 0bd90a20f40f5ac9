"""A sweep of eight jobs one after the other, and side by side with hydra/launcher=joblib: whole processes, alternating.

    python benchmarks/sweeps.py --root DIR [--repeats 3] [--jobs 8] [OVERRIDE ...]

Also what one job more costs, from a sweep of one job and the one of all: seconds of the processor, which other processes do
not change, and jobs an hour. With tiny trainings (--root tests' images, trainer.max_epochs=1) that is the overhead of a job.
Writes outputs/benchmarks/sweeps.json.
"""

import functools
import itertools
import json
import os
import resource
import tempfile
from pathlib import Path

from timing import alternate, parser, ratios, report, run_python, spread

SETTINGS = ["datamodule=image_folder", "trainer=cpu", "trainer.max_epochs=2", "model.weights=null", "logger=none"]


def sweep(launcher: str, jobs: int, settings: list[str], folder: Path) -> tuple[float, float]:
    """Measure the seconds from the start of the command to its end, and those of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
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
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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

        def measure(launcher: str) -> dict[str, float]:
            seconds, processor_s = sweep(launcher, args.jobs, settings, next(folders))
            first_s, first_processor_s = sweep(launcher, 1, settings, next(folders))
            return {
                "s": seconds,
                "processor s a further job": (processor_s - first_processor_s) / (args.jobs - 1),
                "jobs an hour": 3600 * (args.jobs - 1) / (seconds - first_s),
            }

        sweep("basic", 1, settings, next(folders))  # builds the pixel cache
        measured = alternate({each: functools.partial(measure, each) for each in ("basic", "joblib")}, args.repeats)
    report("sweeps", measured, jobs=args.jobs, cores=len(os.sched_getaffinity(0)))
    print(f"basic / joblib: {spread(ratios(measured['basic, s'], measured['joblib, s']))}")


if __name__ == "__main__":
    main()
