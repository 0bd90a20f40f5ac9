"""Compare training with the compute limit and with a plain loop, and measure the gain of the pixel cache.

    python -m benchmarks.data_pipeline --plain-loop FILE --root DIR [--weights FILE] [--repeats 5]

Alternating runs in one session:
- compute limit: forward, backward and optimizer step of the same network on one resident batch, channels last;
- train.py with the study's recipe, and the plain loop, on DIR: steady images/s and the first epoch;
- both on 12-megapixel JPEGs that this script makes: the first epoch, in which the cache is built, and later ones.
Writes outputs/benchmarks/data_pipeline.json.
"""

import itertools
import json
import re
import tempfile
from pathlib import Path

from benchmarks.timing import PROJECT, alternate, parser, report, run_python

FINAL = {
    "network": "truncated",
    "backbone": "shufflenet_v2_x0_5",
    "keep": 5,
    "head": {"hidden_dims": [2], "dropout": [0.2, 0.02]},
}
LIMIT = f"""
import sys, time
from engine.process_tuning import tune_process
if sys.argv[1] == "kept":
    tune_process()
import torch
from lightning_modules.networks.registry import build_network
net = build_network(num_classes=2, **{FINAL!r}).to(memory_format=torch.channels_last)
x = torch.randn(16, 3, 256, 256).contiguous(memory_format=torch.channels_last)
y = torch.randint(0, 2, (16,))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
for step in range(65):
    if step == 5:
        loss.item()
        started = time.perf_counter()
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
loss.item()
print(60 * 16 / (time.perf_counter() - started))
"""


def compute_limit(memory: str = "kept") -> float:
    """Measure images/s on one resident batch of 16; freed memory is `kept` as in train.py, or handled as `usual`."""
    return float(run_python("-c", LIMIT, memory)[1])


def plain_loop(script: str, root: Path, weights: str | None, epochs: int) -> dict[str, float]:
    """Measure the plain loop: steady images/s, and the seconds of the first epoch."""
    _, printed = run_python(script, root, "--epochs", epochs, *(["--weights", weights] if weights else []))
    rates = [float(rate) for rate in re.findall(r"([\d.]+) images/s", printed)]
    return {"steady images/s": steady(rates), "first epoch, s": sum(1 for _ in root.glob("train/*/*")) / rates[0]}


def train(root: Path, weights: str | None, epochs: int, cache: Path, *settings: str) -> dict[str, float]:
    """Measure train.py: steady images/s, and the seconds from the start of reading to the end of the first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run_python(
            PROJECT / "train.py", "datamodule=image_folder", f"datamodule.root={root}", f"datamodule.cache={cache}",
            f"model.weights={weights or 'null'}", "experiment=final_model", "stages=[fit]", "logger=none",
            f"trainer.max_epochs={epochs}", f"hydra.run.dir={folder}", *settings,
        )  # fmt: skip
        record = json.loads((Path(folder) / "result.json").read_text())
    passes = record["throughput"]["epochs"]
    rates = [each["images"] / each["seconds"] for each in passes]
    return {
        "steady images/s": steady(rates),
        "reading and first epoch, s": record["data"]["read_s"] + passes[0]["seconds"],
    }


def steady(rates: list[float]) -> float:
    """Return images/s over all epochs except the first; the epochs have the same number of images."""
    return len(rates[1:]) / sum(1 / rate for rate in rates[1:])


def big_images(root: Path) -> Path:
    """Make 40 noisy JPEGs of 4000 x 3000 pixels per class, and a few for validation."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for folder, number in (("train/a", 40), ("train/b", 40), ("val/a", 4), ("val/b", 4)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            coarse = generator.integers(0, 256, (75, 100, 3), dtype=np.uint8)
            fine = np.asarray(Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
            noisy = fine + generator.integers(-12, 13, fine.shape, dtype=np.int16)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / folder / f"{index}.jpg", quality=90)
    return root


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--plain-loop", required=True)
    options.add_argument("--root", required=True, type=Path)
    options.add_argument("--weights")
    options.add_argument("--big-repeats", type=int, default=5)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh = (folder / f"cache{index}" for index in itertools.count())  # the first epoch builds its pixel cache
        measured = alternate({
            "compute limit, images/s": compute_limit,
            "compute limit with the usual malloc, images/s": lambda: compute_limit(memory="usual"),
            "train.py": lambda: train(args.root.resolve(), args.weights, 4, next(fresh)),
            "plain loop": lambda: plain_loop(args.plain_loop, args.root, args.weights, 4),
        }, args.repeats)  # fmt: skip
        big = big_images(folder / "big") if args.big_repeats else None
        measured |= alternate({
            "train.py, 12 megapixels": lambda: train(big, args.weights, 3, next(fresh)),
            "plain loop, 12 megapixels": lambda: plain_loop(args.plain_loop, big, args.weights, 3),
        }, args.big_repeats)  # fmt: skip
    report("data_pipeline", measured)


if __name__ == "__main__":
    main()
