"""Time a sweep of eight jobs, one after the other and in parallel with other launchers: whole processes, alternating.

    python -m benchmarks.sweeps --root DIR [--repeats 3] [--jobs 8] [--launchers basic joblib ray] [OVERRIDE ...]

Also measures what an additional job costs, from a sweep of one job and the sweep of all: jobs per hour, and seconds of
processor time, which other processes do not affect (only for launchers whose processes are children of this one). With tiny
trainings (--root with the tests' images, trainer.max_epochs=1) that is the overhead of a job. Writes
outputs/benchmarks/sweeps.json.
"""

import functools
import itertools
import json
import os
import resource
import tempfile
from pathlib import Path

from benchmarks.timing import alternate, parser, ratios, report, run_python, spread

SETTINGS = ["datamodule=image_folder", "trainer=cpu", "trainer.max_epochs=2", "model.weights=null", "logger=none"]
ONE_CORE = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=1"]


def sweep(launcher: str, jobs: int, settings: list[str], folder: Path) -> tuple[float, float]:
    """Measure the seconds from start to end of the command, and its seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = run_python(
        "train.py",
        "-m",
        f"seed=range(1,{jobs + 1})",
        *settings,
        f"hydra/launcher={launcher}",
        *(ONE_CORE if launcher == "submitit_slurm" else []),
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
    options.add_argument(
        "--launchers", nargs="+", default=["basic", "joblib"], help="the others are compared with the first one"
    )
    options.add_argument("overrides", nargs="*", help="more settings of train.py")
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
            found = {"s": seconds, "jobs an hour": 3600 * (args.jobs - 1) / (seconds - first_s)}
            if launcher in ("basic", "joblib"):
                found["processor s a further job"] = (processor_s - first_processor_s) / (args.jobs - 1)
            return found

        sweep("basic", 1, settings, next(folders))  # builds the pixel cache
        measured = alternate({each: functools.partial(measure, each) for each in args.launchers}, args.repeats)
    report("sweeps", measured, jobs=args.jobs, cores=len(os.sched_getaffinity(0)))
    first, *others = args.launchers
    for other in others:
        print(f"{first} / {other}: {spread(ratios(measured[f'{first}, s'], measured[f'{other}, s']))}")


if __name__ == "__main__":
    main()
