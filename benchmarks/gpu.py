"""Compare images/s of train.py trainer=gpu, with and without CUDA graphs, with a single batch that stays on the GPU.

    python -m benchmarks.gpu --root DIR [--weights FILE] [--repeats 3] [--batch-sizes 16 128] [--epochs 4] [--device cuda]

- the limit: forward, backward and optimizer step of the final network in bf16 on one resident batch, with its kernels launched
  one by one, and with the whole step as one CUDA graph; in one process, alternating;
- training with the study's recipe: two sweeps of `--repeats` seeds, all settings with the first seed, then all with the second.
  Images/s over all epochs except the first.

`--device cpu` tries the script out, without graphs. Writes outputs/benchmarks/gpu.json.
"""

import json
import tempfile
from pathlib import Path

import torch

from benchmarks.data_pipeline import FINAL, steady
from benchmarks.timing import Measured, parser, report, run_python

LIMIT = f"""
import json, sys, time, torch
from lightning_modules.networks.registry import build_network

device, repeats, batches = sys.argv[1], int(sys.argv[2]), [int(each) for each in sys.argv[3:]]
torch.use_deterministic_algorithms(True)  # as in training
torch.utils.deterministic.fill_uninitialized_memory = False

def measure(batch, captured):
    net = build_network(num_classes=2, **{FINAL!r}).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 256, 256, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 2, (batch,), device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True, capturable=captured)
    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss
    if captured:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()
        with torch.cuda.graph(graph):
            loss = step()
    run = graph.replay if captured else step
    for _ in range(5):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(60):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 60 * batch / (time.perf_counter() - started)

found = {{}}
for _ in range(repeats):
    for batch in batches:
        for captured in (False, True)[:1 + (device == "cuda")]:
            found.setdefault(f"{{batch}} {{captured}}", []).append(measure(batch, captured))
print(json.dumps(found))
"""


def limits(device: str, batches: list[int], repeats: int) -> Measured:
    """Measure images/s on one resident batch."""
    found = json.loads(run_python("-c", LIMIT, device, repeats, *batches)[1].splitlines()[-1])
    names = {"False": "one resident batch, kernel by kernel", "True": "one resident batch, the whole step one graph"}
    return {f"batch {key.split()[0]}: {names[key.split()[1]]}": rates for key, rates in found.items()}


def train(settings: list[str], swept: dict[str, list], epochs: int, repeats: int) -> dict[tuple, list[float]]:
    """Measure images/s in a sweep over these keys; return those of all seeds by the values of the keys."""
    with tempfile.TemporaryDirectory() as folder:
        run_python(
            "train.py", "-m", *settings, f"seeds={repeats}", f"trainer.max_epochs={epochs}", f"hydra.sweep.dir={folder}",
            *(f"{key}={','.join(map(str, values))}" for key, values in swept.items()),
        )  # fmt: skip
        found = {}
        for path in sorted(Path(folder).glob("*/result.json"), key=lambda path: path.stat().st_mtime):
            record = json.loads(path.read_text())
            given = dict(each.split("=", 1) for each in record["run"]["overrides"])
            values = tuple(given[key].lower() for key in swept)
            passes = record["throughput"]["epochs"]
            found.setdefault(values, []).append(steady([each["images"] / each["seconds"] for each in passes]))
    return found


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--root", required=True, type=Path)
    options.add_argument("--weights")
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here; --device cpu tries the script out")
    with tempfile.TemporaryDirectory() as cache:
        settings = [
            f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "experiment=final_model", "stages=[fit]", "logger=none",
            "datamodule=image_folder", f"datamodule.root={args.root.resolve()}", f"datamodule.cache={cache}",
            f"model.weights={args.weights or 'null'}", "~callbacks.contact_sheet", "overview=false",
        ]  # fmt: skip
        swept = {"datamodule.batch_size": args.batch_sizes}
        measured = limits(args.device, args.batch_sizes, args.repeats)
        graphs = train(settings, swept | {"trainer.cuda_graphs": ["auto", "false"]}, args.epochs, args.repeats)
        moved = train([*settings, "datamodule.gpu_cache_gib=0"], swept, args.epochs, args.repeats)
    for batch in map(str, args.batch_sizes):
        measured[f"batch {batch}: training"] = graphs[batch, "auto"]
        measured[f"batch {batch}: training, kernel by kernel"] = graphs[batch, "false"]
        measured[f"batch {batch}: training, each batch moved to the GPU"] = moved[batch,]
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    report("gpu", measured, device=device, torch=torch.__version__)


if __name__ == "__main__":
    main()
