"""Compare the formats of export.py: size, latency, accuracy and difference from the checkpoint.

    python -m benchmarks.export_formats --ckpt RUN/checkpoints/best.ckpt ... [--formats onnx litert_int8] [--repeats 5]

Each checkpoint is exported once in each format and compared on the images of its run, as export.py does. Then the files, in
turn, label one image of the network's own size on one thread (p50 of 50 passes). Prints a Markdown table and writes
outputs/benchmarks/export_formats.json.
"""

import functools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks.timing import PROJECT, alternate, parser, report, spread, times_ms
from common.errors import UserError
from common.text import format_interval
from evaluation.describe import format_accuracy
from evaluation.intervals import proportion
from inference.backends import CheckpointBackend
from inference.export.export import Exported, export
from inference.export.file_format import FileFormat

FORMATS = ("onnx", "onnx_int8", "litert", "litert_int8")
PASSES, MOST_IMAGES = 50, 2000
HEAD = (
    "network",
    "format",
    "size, MiB",
    "latency p50, ms",
    "a probability differs by",
    "called differently",
    "accuracy",
    "costs of the accuracy",
)


def make_format(name: str, settings: list[str]) -> FileFormat:
    """Return the format with this name in conf/format."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return instantiate(compose("export", overrides=[f"format={name}", *settings]).format)


def row(name: str, label: str, made: Exported, latencies: list[float]) -> tuple[str, ...]:
    found = made.verification
    file = made.path / "model.tflite" if made.path.is_dir() else made.path
    accuracy = format_accuracy(proportion(found.correct_exported, found.n_labeled)) if found.n_labeled else "-"
    cost = found.cost()
    return (
        name, label, f"{file.stat().st_size / 2**20:.2f}", spread(latencies) if latencies else "-",
        f"{found.largest_difference:.1e}", f"{found.changed:,} of {found.n:,}", accuracy,
        f"{cost.value:.3f} ({format_interval(cost.low, cost.high)}): {cost.verdict}" if cost and found.changed else "-",
    )  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ckpt", required=True, nargs="+", type=Path)
    options.add_argument(
        "--formats", nargs="+", default=FORMATS, help="NAME or NAME,SETTING=VALUE, with a NAME in conf/format"
    )
    args = options.parse_args()
    torch.set_num_threads(1)
    measures, exported, checkpoints = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for ckpt in args.ckpt:
            name = ckpt.resolve().parent.parent.name
            backend = checkpoints[name] = CheckpointBackend(ckpt, "cpu")
            side = backend.description.image_size
            image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
            computing = {"checkpoint (torch)": backend}
            for label in args.formats:
                format_name, *settings = label.split(",")
                made = make_format(format_name, settings)
                out = Path(folder, name, f"{label.replace('=', '_')}{made.suffix}")
                try:
                    done = export(str(ckpt), format=made, out=str(out), most=MOST_IMAGES)
                except UserError as error:
                    print(f"{name}, {label}: {error}", flush=True)
                    continue
                exported[name, label] = done
                print(f"{name}, {label}: {done.verification.describe()}", flush=True)
                if opened := made.open_on_one_thread(done.path, None):
                    computing[label] = opened
            for label, compute in computing.items():
                run = functools.partial(compute, image)
                measures[f"{name} {label}"] = lambda run=run: statistics.median(times_ms(run, PASSES))
        measured = alternate(measures, args.repeats)
        report("export_formats", measured, unit="ms", threads=1)
        print("\n| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
        for (name, label), done in exported.items():
            print("| " + " | ".join(row(name, label, done, measured.get(f"{name} {label}", []))) + " |")
    for name in checkpoints:
        print(f"{name} in torch, one thread: {spread(measured[f'{name} checkpoint (torch)'])} ms")


if __name__ == "__main__":
    main()
