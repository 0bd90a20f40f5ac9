"""How long from the command to a given validation accuracy: train.py against what one would write otherwise.

    python benchmarks/time_to_accuracy.py --root DIR --weights FILE --plain-loop FILE [--fastai PYTHON] [--target 0.80]

Alternating runs in one session; every contestant starts from the same pretrained trunk, prints a line an epoch, and is
stopped once its validation accuracy reaches the target, or at the limit. `--fastai` names a Python that has fastai. Also:
processor seconds with those of its processes that ended, and the largest resident memory of a single process. Writes
outputs/benchmarks/time_to_accuracy.json and .png.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parent.parent
BASELINES = PROJECT / "benchmarks" / "baselines"
LINE = re.compile(r"epoch +(\d+).*? (?:val accuracy|val(?! loss)) ([\d.]+)")


def contestants(args: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    """Name -> command. The plain loop has a seed of its own, always the same."""
    ours = [
        sys.executable, "train.py", "datamodule=image_folder", f"datamodule.root={args.root}", "trainer=cpu",
        f"model.weights={args.weights}", "stages=[fit]", f"seed={seed}",
    ]  # fmt: skip
    given = [str(args.root), "--weights", args.weights, "--epochs", "60"]
    found = {
        "train.py recipe=fast": [*ours, "recipe=fast", f"trainer.max_epochs={args.epochs}"],
        "train.py, study's recipe": [*ours, "experiment=final_model"],
        "plain loop": [sys.executable, args.plain_loop, *given],
        "plain Lightning": [sys.executable, str(BASELINES / "plain_lightning.py"), *given, "--seed", str(seed)],
    }
    if args.fastai:
        found["fastai"] = [
            args.fastai,
            str(BASELINES / "fastai_fine_tuning.py"),
            *given[:-1],
            "12",
            "--seed",
            str(seed),
        ]
    return found


def race(command: list[str], target: float, limit_s: float) -> dict:
    """Seconds and accuracy of each epoch until the target, processor seconds and memory."""
    with tempfile.TemporaryDirectory() as folder:
        own = command[1] == "train.py"
        command = [*command, f"hydra.run.dir={folder}/run"] if own else command
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        curve, printed = [], []
        for line in process.stdout:
            printed.append(line)
            if found := LINE.search(line):
                curve.append((time.perf_counter() - started, float(found[2])))
                if curve[-1][1] >= target or curve[-1][0] > limit_s:
                    break
        process.terminate()
        process.stdout.close()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # waited for here
    if not curve:
        raise SystemExit(f"{' '.join(command)} printed no epoch:\n{''.join(printed[-20:])}")
    return {
        "seconds": curve[-1][0] if curve[-1][1] >= target else None,
        "curve": curve,
        "first_epoch_s": curve[0][0],
        "epoch_s": statistics.median(b[0] - a[0] for a, b in itertools.pairwise(curve)) if len(curve) > 1 else None,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
    }


def spread(values: list[float | None]) -> str:
    """`12.3 (11.9 to 13.0)`, or how many did not get there."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "not reached"
    text = f"{statistics.median(reached):.1f} ({min(reached):.1f} to {max(reached):.1f})"
    return text if len(reached) == len(values) else f"{text}, {len(reached)} of {len(values)} runs"


def draw(runs: dict[str, list[dict]], target: float) -> Figure:
    """Validation accuracy against seconds since the command, a line a run."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colours = ("#D55E00", "#0072B2", "#000000", "#009E73", "#CC79A7")  # Okabe & Ito
    for colour, (name, many) in zip(colours, runs.items(), strict=False):
        for index, run in enumerate(many):
            axes.plot(
                *zip(*run["curve"], strict=True), ".-", color=colour, alpha=0.8, label=name if index == 0 else None
            )
    axes.axhline(target, color="0.5", linewidth=1, linestyle="--")
    axes.set(xlabel="seconds since the command", ylabel="validation accuracy")
    axes.set_title(f"Until validation accuracy {target:.2f}, {len(next(iter(runs.values())))} runs each")
    axes.grid(color="0.92")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--plain-loop", required=True)
    parser.add_argument("--fastai")
    parser.add_argument("--target", type=float, default=0.80)
    parser.add_argument("--limit", type=float, default=150, help="seconds for each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of recipe=fast")
    parser.add_argument("--seed", type=int, default=11, help="of the first repeat; the next ones count on")
    args = parser.parse_args()
    runs: dict[str, list[dict]] = {}
    for repeat in range(args.repeats):
        for name, command in contestants(args, args.seed + repeat).items():
            runs.setdefault(name, []).append(race(command, args.target, args.limit))
            print(f"{repeat + 1}/{args.repeats} {name}: {spread([runs[name][-1]['seconds']])} s", flush=True)
    columns = [
        f"seconds to {args.target:.2f}",
        "to the first epoch's end",
        "an epoch",
        "processor seconds",
        "memory MiB",
    ]
    print(f"\n| contestant (n = {args.repeats}) | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for name, many in runs.items():
        columns = [
            spread([run[key] for run in many]) for key in ("seconds", "first_epoch_s", "epoch_s", "cpu_s", "memory_mib")
        ]
        print(f"| {name} | {' | '.join(columns)} |")
    place = PROJECT / "outputs" / "benchmarks"
    place.mkdir(parents=True, exist_ok=True)
    (place / "time_to_accuracy.json").write_text(json.dumps({"target": args.target, "runs": runs}, indent=1))
    draw(runs, args.target).savefig(place / "time_to_accuracy.png", dpi=110)


if __name__ == "__main__":
    main()
