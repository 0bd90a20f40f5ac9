"""How long a command takes until it does something, against nothing but the imports.

    python benchmarks/start_up.py --root DIR [--runs FOLDER] [--repeats 5]

Alternating in one session, whole processes: `import torch, torchvision, lightning`; train.py on DIR, its pixel store warm,
until its first optimizer step is done; `train.py --help`; a misspelt setting; report.py on FOLDER. Writes
outputs/benchmarks/start_up.json.
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
TIMED = str(PROJECT / "benchmarks" / "baselines" / "timed.py")


def seconds(*arguments: str) -> float:
    """Of the whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, check=False)
    return time.perf_counter() - started


def first_step(root: Path, *settings: str) -> float:
    """Seconds from the command to the end of the first optimizer step."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder, "steps")
        command = [
            TIMED, str(steps), "train.py", "datamodule=image_folder", f"datamodule.root={root}", "model.weights=null",
            "trainer.max_epochs=1",
            f"hydra.run.dir={folder}/run", *settings,
        ]  # fmt: skip
        started = time.perf_counter()
        ran = subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(ran.stdout + ran.stderr)
        return float(steps.read_text().split()[0]) - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--runs", help="folder of finished runs for report.py")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    args.root = args.root.resolve()
    measured = {
        "import torch, torchvision, lightning": lambda: seconds("-c", "import torch, torchvision, lightning"),
        "train.py to its first step": lambda: first_step(args.root, "stages=[fit]"),
        "the same with stages=[cost,fit]": lambda: first_step(args.root, "stages=[cost,fit]"),
        "train.py --help": lambda: seconds("train.py", "--help"),
        "train.py optimizer.learning=1": lambda: seconds("train.py", "optimizer.learning=1"),
    }
    if args.runs:
        measured["report.py"] = lambda: seconds("report.py", f"runs={Path(args.runs).resolve()}")
    first_step(args.root, "stages=[fit]")  # fills the pixel store
    found: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(args.repeats):
        for name, measure in measured.items():
            found[name].append(measure())
    print(f"| seconds, n = {args.repeats} | median | smallest to largest | of the imports |\n|---|---|---|---|")
    imports = found["import torch, torchvision, lightning"]
    for name, values in found.items():
        ratios = [ours / theirs for ours, theirs in zip(values, imports, strict=True)]
        print(
            f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} "
            f"| {statistics.median(ratios):.2f} |"
        )
    place = PROJECT / "outputs" / "benchmarks" / "start_up.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"seconds": found}, indent=1))


if __name__ == "__main__":
    main()
