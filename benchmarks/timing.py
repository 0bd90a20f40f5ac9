"""Shared by the benchmarks: alternating measurements, their spread, and the file of results in outputs/benchmarks."""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "outputs" / "benchmarks"

Measured = dict[str, list[float]]


def parser(doc: str, repeats: int = 5) -> argparse.ArgumentParser:
    """Return an argument parser with `--repeats` that shows the script's docstring as its help."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=repeats, help=f"of every measurement; {repeats} by default")
    return made


def alternate(measures: Mapping[str, Callable[[], float | dict[str, float]]], repeats: int) -> Measured:
    """Run all measures in turn, `repeats` times; return the values of each by its name.

    If a measure returns several named values, each is kept as `NAME, VALUE'S NAME`.
    """
    found: Measured = {}
    for _ in range(repeats):
        for name, measure in measures.items():
            values = measure()
            for key, value in values.items() if isinstance(values, dict) else ((None, values),):
                label = f"{name}, {key}" if key else name
                found.setdefault(label, []).append(value)
                print(f"{label}: {_four_digits(value)}", flush=True)
    return found


def times_ms(call: Callable[[], object], passes: int, warm_up: int = 5) -> list[float]:
    """Call `passes` times after a warm-up; return the milliseconds of each call."""
    times = []
    for _ in range(warm_up + passes):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return times[warm_up:]


def run_python(*arguments: object, check: bool = True) -> tuple[float, str]:
    """Run Python with these arguments in the project's folder; return its wall time in seconds and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if check and done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds, done.stdout


def spread(values: Sequence[float]) -> str:
    """Return `12.3 (11.9 to 13.0)`: the median, the smallest and the largest; NaN values are not counted."""
    reached = [value for value in values if not math.isnan(value)]
    if not reached:
        return "-"
    low, middle, high = (_four_digits(f(reached)) for f in (min, statistics.median, max))
    text = f"{middle} ({low} to {high})"
    return text if len(reached) == len(values) else f"{text}, {len(reached)} of {len(values)} runs"


def _four_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratios(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return the ratio of each pair of consecutive measurements."""
    return [ours / theirs for ours, theirs in zip(values, baseline, strict=True)]


def report(name: str, measured: Measured, **context: object) -> None:
    """Print a table of the measurements and write outputs/benchmarks/NAME.json, with the date and `context`."""
    width = max(map(len, measured))
    print(f"\n{'':{width}} median (smallest to largest)")
    for label, values in measured.items():
        print(f"{label:{width}} {spread(values)}, n = {len(values)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"measured": measured, "date": time.strftime("%Y-%m-%d"), **context}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
