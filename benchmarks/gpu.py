"""What a GPU gives: train.py trainer=gpu with the images on it and with each batch moved there, against one batch that
is there already.

    python benchmarks/gpu.py --root DIR [--weights FILE] [--repeats 5] [--batch-sizes 16 128] [--device cuda]

Alternating runs in one session, images/s over all epochs but the first. `--device cpu` tries the script out. Writes
outputs/benchmarks/gpu.json.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from data_pipeline import PROJECT, compute_limit, ours, steady


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here; --device cpu tries the script out")
    trainer = "trainer=gpu" if args.device == "cuda" else "trainer=cpu"
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.repeats):
            for batch in args.batch_sizes:
                settings = (trainer, f"datamodule.batch_size={batch}")
                rates = {"one batch, there already": compute_limit(args.device, batch)}
                for name, limit in (("images stay there", 8), ("images move there", 0)):
                    made = ours(
                        args.root,
                        args.weights,
                        args.epochs,
                        Path(cache),
                        *settings,
                        f"datamodule.gpu_cache_gib={limit}",
                    )
                    rates[name] = steady(made[0])
                for name, rate in rates.items():
                    results.setdefault(f"batch {batch}: {name}", []).append(rate)
                    print(f"batch {batch}: {name}: {rate:.1f} images/s", flush=True)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "processor"
    print(f"\n| {name}, images/s, n = {args.repeats} | median | smallest to largest |\n|---|---|---|")
    for what, rates in results.items():
        print(f"| {what} | {statistics.median(rates):.0f} | {min(rates):.0f} to {max(rates):.0f} |")
    place = PROJECT / "outputs" / "benchmarks" / "gpu.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"device": name, "images_per_s": results}, indent=1))


if __name__ == "__main__":
    main()
