"""How near training comes to the compute limit, and what the pixel store is worth, against a plain loop.

    python benchmarks/data_pipeline.py --plain-loop FILE --root DIR [--weights FILE] [--repeats 5]

Alternating runs in one session:
- compute limit: forward, backward and optimizer step of the same network on one resident batch, channels last;
- train.py with the study's recipe, and the plain loop, on DIR: steady images/s and the first epoch;
- both on 12-megapixel JPEGs that this script makes (first epoch with the store being built, and from the second on).
Writes outputs/benchmarks/data_pipeline.json.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FINAL = {
    "network": "truncated",
    "backbone": "shufflenet_v2_x0_5",
    "keep": 5,
    "head": {"hidden_dims": [2], "dropout": [0.2, 0.02]},
}
LIMIT = f"""
import sys, time, torch
from engine.process_tuning import speed_up
from lightning_modules.networks.registry import build_network
device, batch, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "kept":
    speed_up()
net = build_network(num_classes=2, **{FINAL!r}).to(device, memory_format=torch.channels_last)
x = torch.randn(batch, 3, 256, 256, device=device).contiguous(memory_format=torch.channels_last)
y = torch.randint(0, 2, (batch,), device=device)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
for step in range(65):
    if step == 5:
        loss.item()
        started = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
loss.item()
print(60 * batch / (time.perf_counter() - started))
"""


def compute_limit(device: str = "cpu", batch: int = 16, memory: str = "kept") -> float:
    """Images a second on one batch that is there already; freed memory `kept` as in train.py, or as `usual`."""
    command = [sys.executable, "-c", LIMIT, device, str(batch), memory]
    return float(subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout)


def plain_loop(script: str, root: Path, weights: str | None, epochs: int) -> list[float]:
    """Images a second of each epoch."""
    command = [sys.executable, script, str(root), "--epochs", str(epochs), *(["--weights", weights] if weights else [])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(rate) for rate in re.findall(r"([\d.]+) images/s", printed)]


def ours(root: Path, weights: str | None, epochs: int, cache: Path, *settings: str) -> tuple[list[float], float]:
    """Images a second of each epoch, and the seconds from the start of reading to the end of the first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(PROJECT / "train.py"), "datamodule=image_folder", f"datamodule.root={root}",
            f"model.weights={weights or 'null'}", "experiment=final_model", "stages=[fit]", "logger=none",
            f"trainer.max_epochs={epochs}", f"hydra.run.dir={folder}", f"datamodule.cache={cache}", *settings,
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, text=True, check=True)
        record = json.loads((Path(folder) / "result.json").read_text())
    throughput = record["throughput"]
    first = record["data"]["read_s"] + throughput["epochs"][0]["seconds"]
    return [epoch["images"] / epoch["seconds"] for epoch in throughput["epochs"]], first


def big_images(root: Path, count: int = 40) -> Path:
    """`count` noisy JPEGs of 4000 x 3000 pixels a class, and a few for validation."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for folder, number in (("train/a", count), ("train/b", count), ("val/a", 4), ("val/b", 4)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            coarse = generator.integers(0, 256, (75, 100, 3), dtype=np.uint8)
            fine = np.asarray(Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
            noisy = fine + generator.integers(-12, 13, fine.shape, dtype=np.int16)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / folder / f"{index}.jpg", quality=90)
    return root


def steady(rates: list[float]) -> float:
    """Images a second over all epochs but the first; the epochs are equally long."""
    return len(rates[1:]) / sum(1 / rate for rate in rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-loop", required=True)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--big-repeats", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, list[float]] = {}

    def keep(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)
        print(f"{name}: {value:.1f}", flush=True)

    for _ in range(arguments.repeats):
        keep("compute limit, images/s", compute_limit())
        keep("compute limit with the usual malloc, images/s", compute_limit(memory="usual"))
        with tempfile.TemporaryDirectory() as cache:
            rates, first = ours(arguments.root, arguments.weights, 4, Path(cache))
        keep("train.py, steady images/s", steady(rates))
        keep("train.py, reading and first epoch, s", first)
        rates = plain_loop(arguments.plain_loop, arguments.root, arguments.weights, 4)
        keep("plain loop, steady images/s", steady(rates))
        keep("plain loop, first epoch, s", sum(1 for _ in arguments.root.glob("train/*/*")) / rates[0])
    with tempfile.TemporaryDirectory() as folder:
        root = big_images(Path(folder) / "big") if arguments.big_repeats else None
        for index in range(arguments.big_repeats):
            rates, first = ours(root, arguments.weights, 3, Path(folder) / f"cache{index}")
            keep("train.py, 12 megapixels, steady images/s", steady(rates))
            keep("train.py, 12 megapixels, reading and first epoch, s", first)
            rates = plain_loop(arguments.plain_loop, root, arguments.weights, 3)
            keep("plain loop, 12 megapixels, steady images/s", steady(rates))
            keep("plain loop, 12 megapixels, first epoch, s", 80 / rates[0])
    print()
    for name, values in results.items():
        print(
            f"{name:52} median {statistics.median(values):7.1f}  ({min(values):.1f} to {max(values):.1f}), n = {len(values)}"
        )
    out = PROJECT / "outputs" / "benchmarks" / "data_pipeline.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, "at": time.strftime("%Y-%m-%d")}, indent=2) + "\n")


if __name__ == "__main__":
    main()
