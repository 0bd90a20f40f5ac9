"""Steady training speed against a plain loop on the same pictures, alternating, in one session.

    python benchmarks/training_speed.py --plain-loop FILE --root DIR [--weights FILE] [--epochs 4] [--repeats 5]

The plain loop is a script that takes ROOT, --weights and --epochs and prints `NUMBER images/s` an epoch. The first epoch
of either is left out. Writes outputs/benchmarks/training_speed.json.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def plain_loop(arguments: argparse.Namespace) -> float:
    """Images a second of the plain loop, over its epochs but the first."""
    weights = ["--weights", arguments.weights] if arguments.weights else []
    command = [sys.executable, arguments.plain_loop, arguments.root, "--epochs", str(arguments.epochs), *weights]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rates = [float(rate) for rate in re.findall(r"([\d.]+) images/s", printed)][1:]
    return len(rates) / sum(1 / rate for rate in rates)  # equally many pictures an epoch


def ours(arguments: argparse.Namespace) -> float:
    """Images a second of train.py with the study's recipe, over its epochs but the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(PROJECT / "train.py"), "datamodule=image_folder", f"datamodule.root={arguments.root}",
            f"model.weights={arguments.weights or 'null'}", "experiment=final_model", "stages=[fit]", "logger=none",
            f"trainer.max_epochs={arguments.epochs}", f"hydra.run.dir={folder}",
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads((Path(folder) / "result.json").read_text())["throughput"]["train_images_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-loop", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"plain loop": [], "train.py": []}
    ours(arguments)  # builds the pixel store
    for _ in range(arguments.repeats):
        rates["plain loop"].append(plain_loop(arguments))
        rates["train.py"].append(ours(arguments))
    for name, values in rates.items():
        print(f"{name:10}  median {statistics.median(values):6.1f} images/s  ({min(values):.1f} to {max(values):.1f})")
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    spread = f"({min(ratios):.2f} to {max(ratios):.2f}), n = {len(ratios)}"
    print(f"ratio       median {statistics.median(ratios):6.2f}           {spread}")
    out = PROJECT / "outputs" / "benchmarks" / "training_speed.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"images_per_s": rates, "ratios": ratios, "machine": platform.processor() or platform.machine()}
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
