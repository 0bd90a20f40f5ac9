"""What inference costs after training: torch, torch with channels last, ONNX, ONNX in 8-bit integers.

    python -m benchmarks.deployment --ckpt outputs/MODEL/DATE/checkpoints/best.ckpt [--repeats 5]

One thread, alternating; latency of one image (p50 of 50 passes) and images/s in batches of 32. The first four take normalized
images and return logits; the last four start from a decoded photo of 500 x 375, resized by Pillow or by the ONNX file itself,
which does it like Pillow or with ONNX's own operator. Writes outputs/benchmarks/deployment.json.
"""

import functools
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import alternate, parser, report, times_ms
from common.text import file_size
from inference.backends import Backend, CheckpointBackend, OnnxBackend
from inference.export.export import export
from inference.export.int8 import Int8
from inference.export.onnx_file import OnnxFile
from inference.export.preprocessing import plain

PASSES, BATCH = 50, 32
PHOTO = (375, 500, 3)

Model = Callable[[np.ndarray], object]


def on_runtime(path: Path) -> Model:
    backend = OnnxBackend(path, "cpu", threads=1)
    return lambda batch: backend.session.run(None, {backend.input.name: batch})


def on_torch(network: torch.nn.Module, memory_format: torch.memory_format) -> Model:
    @torch.inference_mode()
    def compute(batch: np.ndarray) -> object:
        return network(torch.from_numpy(batch).contiguous(memory_format=memory_format))

    return compute


def models(ckpt: str, folder: Path) -> dict[str, tuple[Model, Callable[[int], np.ndarray]]]:
    """Return, by name, each way to run the network and the function that makes a batch for it."""
    checkpoint = CheckpointBackend(Path(ckpt), "cpu")
    size = checkpoint.description.image_size
    generator = np.random.default_rng(0)

    def normalized(count: int) -> np.ndarray:
        return generator.standard_normal((count, 3, size, size)).astype(np.float32)

    def photos(count: int) -> np.ndarray:
        return generator.integers(0, 256, (count, *PHOTO), dtype=np.uint8)

    def after_pillow(backend: Backend) -> Model:
        pixels = checkpoint.description.pixels
        return lambda batch: backend(np.stack([pixels(Image.fromarray(photo)) for photo in batch]))

    files = {}
    for name, format, preprocessing in (
        ("ONNX", OnnxFile, False),
        ("ONNX int8", Int8, False),
        ("whole", OnnxFile, True),
        ("native", functools.partial(OnnxFile, "native"), True),
    ):
        made = export(ckpt, format=format(), preprocessing=preprocessing, out=str(folder / name))
        files[name] = made.path
        compared = f"{made.verification.describe()}; {made.verification.describe_accuracies()}"
        print(f"{name}: {file_size(made.path.stat().st_size)}; {compared}")
    return {
        "torch": (on_torch(plain(checkpoint.network), torch.contiguous_format), normalized),
        "torch, channels last": (on_torch(checkpoint.network, torch.channels_last), normalized),
        "ONNX": (on_runtime(files["ONNX"]), normalized),
        "ONNX int8": (on_runtime(files["ONNX int8"]), normalized),
        "photo: Pillow, torch, channels last": (after_pillow(checkpoint), photos),
        "photo: Pillow, ONNX": (after_pillow(OnnxBackend(files["ONNX"], "cpu")), photos),
        "photo: ONNX with preprocessing": (on_runtime(files["whole"]), photos),
        "photo: ONNX with preprocessing, resize=native": (on_runtime(files["native"]), photos),
    }


def measure(model: Model, make: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Measure the latency of one image and the throughput of a batch."""
    image, batch = make(1), make(BATCH)
    latencies, rest = times_ms(lambda: model(image), PASSES), times_ms(lambda: model(batch), PASSES // 10, warm_up=1)
    rate = BATCH / statistics.median(rest) * 1000
    return {"latency p50, ms": statistics.median(latencies), f"images/s, batch {BATCH}": rate}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ckpt", required=True)
    args = options.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        compared = models(args.ckpt, Path(folder))
        measures = {name: functools.partial(measure, *each) for name, each in compared.items()}
        report("deployment", alternate(measures, args.repeats))


if __name__ == "__main__":
    main()
