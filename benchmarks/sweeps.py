"""A sweep of eight jobs one after the other, and side by side with hydra/launcher=joblib: whole processes, alternating.

python benchmarks/sweeps.py --root DIR [--repeats 3] [--jobs 8] [OVERRIDE ...]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = ["datamodule=image_folder", "trainer=cpu", "trainer.max_epochs=2", "model.weights=null", "logger=none"]
LAUNCHERS = ("basic", "joblib")


def sweep(launcher: str, jobs: int, settings: list[str], folder: Path) -> float:
    """Seconds from the start of the command to its end."""
    command = [sys.executable, str(PROJECT / "train.py"), "-m", f"seed=range(1,{jobs + 1})", *settings]
    command += [f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    records = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert len(records) == jobs and all(record["status"] == "finished" for record in records)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("overrides", nargs="*", help="further settings of train.py")
    arguments = parser.parse_args()
    taken: dict[str, list[float]] = {launcher: [] for launcher in LAUNCHERS}
    with tempfile.TemporaryDirectory() as place:
        settings = [*SETTINGS, f"datamodule.root={arguments.root}", f"datamodule.cache={place}/cache"]
        settings += arguments.overrides
        sweep("basic", 1, settings, Path(place) / "warm_up")  # builds the pixel store
        for repeat in range(arguments.repeats):
            for launcher in LAUNCHERS:
                seconds = sweep(launcher, arguments.jobs, settings, Path(place) / f"{launcher}-{repeat}")
                taken[launcher].append(seconds)
                print(f"{launcher}: {seconds:.1f} s", flush=True)
    ratios = [basic / joblib for basic, joblib in zip(*taken.values(), strict=True)]
    cores = len(os.sched_getaffinity(0))
    print(f"\n{arguments.jobs} jobs on {cores} cores, n = {arguments.repeats}, median (smallest to largest)")
    for name, values, unit in (*((k, v, " s") for k, v in taken.items()), ("basic / joblib", ratios, "")):
        print(f"{name}: {median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})")


if __name__ == "__main__":
    main()
