"""Compare train.py with the usual alternatives in one table: start-up, speed, time to an accuracy, memory, processor time.

    python -m benchmarks.suite --root DIR --weights FILE --plain-loop FILE [--fastai PYTHON] [--target 0.80] [--repeats 5]

DIR contains train/CLASS and val/CLASS. Runs alternate in one session. Every contestant starts from the same pretrained
backbone, trains with batches of 16 and prints one line per epoch; a run ends when its validation accuracy reaches the target,
or at the limit. `--fastai` names a Python interpreter with fastai; memory and processor time need psutil (pip install psutil).
Writes outputs/benchmarks/suite.json and .png.
"""

import argparse
import contextlib
import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from matplotlib.figure import Figure

from benchmarks.timing import PROJECT, RESULTS, Measured, alternate, parser, ratios, report, spread
from common.table import Table

BASELINES = PROJECT / "benchmarks" / "baselines"
LINE = re.compile(r"epoch +(\d+).*? (?:val accuracy|val(?! loss)) ([\d.]+)")
PLAIN = "plain loop"
BATCH = 16
TO_TARGET = "s to the target"
COLUMNS = ("s to the first step", "images/s", TO_TARGET, "processor s", "memory, MiB")

Curve = list[tuple[float, float]]  # seconds, accuracy


def contestants(args: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    """Return the interpreter, script and arguments of each contestant, by name. The plain loop always has its own seed."""
    ours = [
        sys.executable, "train.py", "datamodule=image_folder", f"datamodule.root={args.root}", "trainer=cpu",
        f"model.weights={args.weights}", "stages=[fit]", f"seed={seed}",
    ]  # fmt: skip
    given = [str(args.root), "--weights", args.weights, "--epochs"]
    seeded = ["--seed", str(seed)]
    found = {
        "train.py recipe=fast": [
            *ours,
            "recipe=fast",
            "callbacks.progressive_resizing.initial_scale=0.75",
            f"trainer.max_epochs={args.epochs}",
        ],
        "train.py, study's recipe": [*ours, "experiment=final_model"],
        PLAIN: [sys.executable, args.plain_loop, *given, "60"],
        "plain Lightning": [sys.executable, str(BASELINES / "plain_lightning.py"), *given, "60", *seeded],
    }
    if args.fastai:
        found["fastai"] = [args.fastai, str(BASELINES / "fastai_fine_tuning.py"), *given, "12", *seeded]
    return found


def race(command: list[str], target: float, limit_s: float, images: int, curves: list[Curve]) -> dict[str, float]:
    """Run until the target or the limit; return the values of COLUMNS, and append the curve of accuracy over seconds."""
    with tempfile.TemporaryDirectory() as folder:
        python, script, *rest = command
        rest += [f"hydra.run.dir={folder}/run"] if script == "train.py" else []
        steps = Path(folder, "steps")
        started, curve, printed, memory = time.perf_counter(), [], [], []
        process = psutil.Popen(
            [python, str(BASELINES / "timed.py"), str(steps), script, *rest],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        for line in process.stdout:
            printed.append(line)
            if found := LINE.search(line):
                curve.append((time.perf_counter() - started, float(found[2])))
                family = [process, *process.children(recursive=True)]
                # PSS counts shared pages once
                memory.append(total(family, lambda each: each.memory_full_info().pss / 2**20))
                if curve[-1][1] >= target or curve[-1][0] > limit_s:
                    break
        if not curve:
            raise SystemExit(f"{' '.join(command)} printed no epoch:\n{''.join(printed[-20:])}")
        cpu_s = total(family, lambda each: sum(each.cpu_times()[:4]))  # including children that have ended
        end(process)
        times = [float(line) - started for line in steps.read_text().split()]
    curves.append(curve)
    return dict(zip(COLUMNS, (
        times[0], images_per_s(times, [seconds for seconds, _ in curve], images),
        curve[-1][0] if curve[-1][1] >= target else math.nan, cpu_s, max(memory),
    ), strict=True))  # fmt: skip


def total(family: list[psutil.Process], value_of: Callable[[psutil.Process], float]) -> float:
    """Sum a value over those processes of a contestant that are still alive."""
    values = []
    for each in family:
        with contextlib.suppress(psutil.Error):
            values.append(value_of(each))
    return sum(values)


def end(process: subprocess.Popen) -> None:
    """End a contestant with its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
            return


def images_per_s(steps: list[float], epoch_ends: list[float], images: int) -> float:
    """Return images/s of training in all epochs except the first: from the first to the last step of each epoch."""
    seen, seconds = 0, 0.0
    for start, end in itertools.pairwise(epoch_ends):
        of_epoch = [step for step in steps if start < step < end]
        if len(of_epoch) > 1:
            seen += min(images, BATCH * len(of_epoch)) - BATCH
            seconds += of_epoch[-1] - of_epoch[0]
    return seen / seconds if seconds else math.nan


def table(measured: Measured, names: Iterable[str], target: float) -> str:
    """Return a Markdown table with one row per contestant; ratios to the plain loop are taken run by run."""
    baseline = measured[f"{PLAIN}, {TO_TARGET}"]
    titles = [f"contestant (n = {len(baseline)})", *COLUMNS, "of the plain loop's time"]
    lines = [
        [name, *(spread(measured[f"{name}, {column}"]) for column in COLUMNS),
         spread(ratios(measured[f"{name}, {TO_TARGET}"], baseline))]
        for name in names
    ]  # fmt: skip
    return "\n".join(Table.of(titles, lines).as_markdown()).replace(TO_TARGET, f"s to {target:.2f}")


def draw(curves: dict[str, list[Curve]], target: float) -> Figure:
    """Draw validation accuracy against seconds since the command, one line per run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colors = ("#D55E00", "#0072B2", "#000000", "#009E73", "#CC79A7")  # Okabe & Ito
    for color, (name, many) in zip(colors, curves.items(), strict=False):
        for index, curve in enumerate(many):
            axes.plot(
                *zip(*curve, strict=True), ".-", color=color, alpha=0.7, linewidth=1, label=name if index == 0 else None
            )
    axes.axhline(target, color="0.5", linewidth=1, linestyle="--")
    axes.set(xlabel="seconds since the command", ylabel="validation accuracy", xlim=(0, None))
    axes.set_title(f"Until validation accuracy {target:.2f}, {len(curves[PLAIN])} runs each")
    axes.grid(color="0.92")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", required=True, type=Path)
    options.add_argument("--weights", required=True)
    options.add_argument("--plain-loop", required=True)
    options.add_argument("--fastai")
    options.add_argument("--target", type=float, default=0.80)
    options.add_argument("--limit", type=float, default=150, help="seconds for each run")
    options.add_argument("--epochs", type=int, default=6, help="epochs of recipe=fast")
    options.add_argument("--seed", type=int, default=11, help="seed of the first repeat; each later one adds 1")
    args = options.parse_args()
    args.root = args.root.resolve()
    args.weights, args.plain_loop = (str(Path(path).resolve()) for path in (args.weights, args.plain_loop))
    images = sum(1 for _ in args.root.glob("train/*/*"))
    names = list(contestants(args, args.seed))
    curves: dict[str, list[Curve]] = {name: [] for name in names}

    def run(name: str) -> dict[str, float]:
        command = contestants(args, args.seed + len(curves[name]))[name]
        return race(command, args.target, args.limit, images, curves[name])

    measured = alternate({name: functools.partial(run, name) for name in names}, args.repeats)
    report("suite", measured, target=args.target, processors=os.cpu_count(), batch=BATCH, curves=curves)
    print(f"\n{table(measured, names, args.target)}")
    draw(curves, args.target).savefig(RESULTS / "suite.png", dpi=110)


if __name__ == "__main__":
    main()
