"""train.py against what one would write otherwise, in one table: start-up, speed, time to an accuracy, memory, processor time.

    python benchmarks/suite.py --root DIR --weights FILE --plain-loop FILE [--fastai PYTHON] [--target 0.80] [--repeats 5]

DIR holds train/CLASS and val/CLASS. Alternating runs in one session; every contestant starts from the same pretrained backbone,
trains with batches of 16 and prints a line an epoch; a run ends when its validation accuracy reaches the target, or at the
limit. `--fastai` names a Python that has fastai. Writes outputs/benchmarks/suite.json and .png.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.figure import Figure
from timing import PROJECT, RESULTS, parser, save

BASELINES = PROJECT / "benchmarks" / "baselines"
LINE = re.compile(r"epoch +(\d+).*? (?:val accuracy|val(?! loss)) ([\d.]+)")
PLAIN = "plain loop"
BATCH = 16
COLUMNS = {  # of the table -> in a run
    "s to the first step": "first_step_s",
    "images/s": "images_per_s",
    "s to the target": "seconds",
    "processor s": "cpu_s",
    "memory, MiB": "memory_mib",
}


def contestants(args: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    """Return Python, script and arguments by name. The plain loop has a seed of its own, always the same."""
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


def race(command: list[str], target: float, limit_s: float, images: int) -> dict:
    """Run until the target or the limit; return what COLUMNS names, and the curve of (seconds, accuracy)."""
    with tempfile.TemporaryDirectory() as folder:
        python, script, *rest = command
        rest += [f"hydra.run.dir={folder}/run"] if script == "train.py" else []
        steps = Path(folder, "steps")
        started, curve, printed, memory = time.perf_counter(), [], [], []
        process = subprocess.Popen(
            [python, str(BASELINES / "timed.py"), str(steps), script, *rest],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        for line in process.stdout:
            printed.append(line)
            if found := LINE.search(line):
                curve.append((time.perf_counter() - started, float(found[2])))
                memory.append(memory_mib(process.pid))
                if curve[-1][1] >= target or curve[-1][0] > limit_s:
                    break
        cpu_s = cpu_seconds(process.pid)
        end(process)
        if not curve:
            raise SystemExit(f"{' '.join(command)} printed no epoch:\n{''.join(printed[-20:])}")
        times = [float(line) - started for line in steps.read_text().split()]
    return {
        "seconds": curve[-1][0] if curve[-1][1] >= target else None,
        "curve": curve,
        "first_step_s": times[0],
        "images_per_s": images_per_s(times, [seconds for seconds, _ in curve], images),
        "cpu_s": cpu_s,
        "memory_mib": max(memory),
    }


def end(process: subprocess.Popen) -> None:
    """End a contestant with its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
            return


def images_per_s(steps: list[float], epoch_ends: list[float], images: int) -> float | None:
    """Return the rate of the training part of all epochs but the first: from the first to the last step of each."""
    seen, seconds = 0, 0.0
    for start, end in itertools.pairwise(epoch_ends):
        of_epoch = [step for step in steps if start < step < end]
        if len(of_epoch) > 1:
            seen += min(images, BATCH * len(of_epoch)) - BATCH
            seconds += of_epoch[-1] - of_epoch[0]
    return seen / seconds if seconds else None


def processes(session: int) -> list[Path]:
    """Return the folders in /proc of a session's processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(stat.parent)
    return found


def memory_mib(session: int) -> float:
    """Return the memory of a contestant and its workers, pages that they share counted once."""
    total = 0
    for folder in processes(session):
        with contextlib.suppress(OSError):
            total += int(re.search(r"^Pss: +(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)[1])
    return total / 1024


def cpu_seconds(session: int) -> float:
    """Return the processor time of a contestant and its workers, with those that have ended."""
    ticks = 0
    for folder in processes(session):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def spread(values: list[float | None]) -> str:
    """Return `12.3 (11.9 to 13.0)`, and how many reached it where not all did."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "not reached"
    digits = 0 if min(reached) >= 100 else 1
    low, middle, high = (f"{f(reached):.{digits}f}" for f in (min, statistics.median, max))
    text = f"{middle} ({low} to {high})"
    return text if len(reached) == len(values) else f"{text}, {len(reached)} of {len(values)} runs"


def table(runs: dict[str, list[dict]], target: float) -> str:
    """Return a table, a row a contestant; ratios to the plain loop are run by run."""
    n = len(runs[PLAIN])
    lines = [f"| contestant (n = {n}) | {' | '.join(COLUMNS)} | of the plain loop's time |", "|---" * 7 + "|"]
    for name, many in runs.items():
        cells = [spread([run[key] for run in many]) for key in COLUMNS.values()]
        pairs = [(ours["seconds"], theirs["seconds"]) for ours, theirs in zip(many, runs[PLAIN], strict=True)]
        ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
        low, middle, high = (f(ratios) if ratios else 0 for f in (min, statistics.median, max))
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if ratios else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("s to the target", f"s to {target:.2f}")


def draw(runs: dict[str, list[dict]], target: float) -> Figure:
    """Draw validation accuracy against seconds since the command, a line a run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colors = ("#D55E00", "#0072B2", "#000000", "#009E73", "#CC79A7")  # Okabe & Ito
    for color, (name, many) in zip(colors, runs.items(), strict=False):
        for index, run in enumerate(many):
            curve = list(zip(*run["curve"], strict=True))
            axes.plot(*curve, ".-", color=color, alpha=0.7, linewidth=1, label=name if index == 0 else None)
    axes.axhline(target, color="0.5", linewidth=1, linestyle="--")
    axes.set(xlabel="seconds since the command", ylabel="validation accuracy", xlim=(0, None))
    axes.set_title(f"Until validation accuracy {target:.2f}, {len(runs[PLAIN])} runs each")
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
    options.add_argument("--epochs", type=int, default=6, help="of recipe=fast")
    options.add_argument("--seed", type=int, default=11, help="of the first repeat; each next one is 1 higher")
    args = options.parse_args()
    args.root = args.root.resolve()
    args.weights, args.plain_loop = (str(Path(path).resolve()) for path in (args.weights, args.plain_loop))
    images = sum(1 for _ in args.root.glob("train/*/*"))
    runs: dict[str, list[dict]] = {}
    for repeat in range(args.repeats):
        for name, command in contestants(args, args.seed + repeat).items():
            runs.setdefault(name, []).append(race(command, args.target, args.limit, images))
            print(f"{repeat + 1}/{args.repeats} {name}: {spread([runs[name][-1]['seconds']])}", flush=True)
        machine = {"processors": os.cpu_count(), "batch": BATCH}
        save("suite", {"target": args.target, **machine, "runs": runs})
    print(f"\n{table(runs, args.target)}")
    draw(runs, args.target).savefig(RESULTS / "suite.png", dpi=110)


if __name__ == "__main__":
    main()
