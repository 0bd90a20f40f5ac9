"""What a GPU gives: train.py trainer=gpu with the images on it and with each batch moved there, against one resident batch.

    python benchmarks/gpu.py --root DIR [--weights FILE] [--repeats 5] [--batch-sizes 16 128] [--device cuda]

Alternating runs in one session, images/s over all epochs but the first. `--device cpu` tries the script out. Writes
outputs/benchmarks/gpu.json.
"""

import functools
import tempfile
from pathlib import Path

import torch
from data_pipeline import compute_limit, train
from timing import alternate, parser, report


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", required=True, type=Path)
    options.add_argument("--weights")
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here; --device cpu tries the script out")
    trainer = "trainer=gpu" if args.device == "cuda" else "trainer=cpu"
    measures = {}
    with tempfile.TemporaryDirectory() as cache:

        def steady_rate(batch: int, limit_gib: int) -> float:
            settings = (trainer, f"datamodule.batch_size={batch}", f"datamodule.gpu_cache_gib={limit_gib}")
            return train(args.root.resolve(), args.weights, args.epochs, Path(cache), *settings)["steady images/s"]

        for batch in args.batch_sizes:
            name = f"batch {batch}, images/s"
            measures[f"{name}: one resident batch"] = functools.partial(compute_limit, args.device, batch)
            measures[f"{name}: images kept on the GPU"] = functools.partial(steady_rate, batch, 8)
            measures[f"{name}: each batch moved there"] = functools.partial(steady_rate, batch, 0)
        device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
        report("gpu", alternate(measures, args.repeats), device=device)


if __name__ == "__main__":
    main()
