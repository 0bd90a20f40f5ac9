"""What a trained network costs where it is used: torch, torch with channels last, ONNX, ONNX in whole numbers of 8 bits.

    python benchmarks/deployment.py --ckpt outputs/MODEL/DATE/checkpoints/best.ckpt [--repeats 5]

One thread, alternating; latency of one image (p50 of 50 passes) and images a second in batches of 32, each a median
(smallest to largest) over the repeats. All get normalized images and give logits; the last three lines start from a decoded
photo of 500 x 375, resized by Pillow or by the ONNX file itself. Writes outputs/benchmarks/deployment.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from datamodules.decode import resize
from inference.backends import Backend, CheckpointBackend, OnnxBackend
from inference.export.export import export
from inference.export.graphs import plain

PROJECT = Path(__file__).resolve().parent.parent
PASSES, WARM_UP, BATCH = 50, 5, 32
PHOTO = (375, 500, 3)


def on_runtime(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def on_torch(network: torch.nn.Module, memory_format: torch.memory_format) -> Callable[[np.ndarray], object]:
    @torch.inference_mode()
    def answer(batch: np.ndarray) -> object:
        return network(torch.from_numpy(batch).contiguous(memory_format=memory_format))

    return answer


def ways(ckpt: str, folder: Path) -> dict[str, tuple[Callable, Callable[[int], np.ndarray]]]:
    """Name -> what answers, and what makes a batch of so many for it."""
    before = CheckpointBackend(Path(ckpt), "cpu")
    size = before.description.image_size
    generator = np.random.default_rng(0)

    def normalized(count: int) -> np.ndarray:
        return generator.standard_normal((count, 3, size, size)).astype(np.float32)

    def photos(count: int) -> np.ndarray:
        return generator.integers(0, 256, (count, *PHOTO), dtype=np.uint8)

    def after_pillow(backend: Backend) -> Callable[[np.ndarray], np.ndarray]:
        return lambda batch: backend(np.stack([np.asarray(resize(Image.fromarray(photo), size)) for photo in batch]))

    common = {"images": None, "root": None, "largest_difference": 1e-4}
    files = {}
    for name, format, preprocessing in (("ONNX", "onnx", False), ("ONNX int8", "int8", False), ("whole", "onnx", True)):
        made = export(ckpt, format=format, preprocessing=preprocessing, out=str(folder / name), **common)
        files[name] = made.path
        print(f"{name}: {made.path.stat().st_size / 2**20:.2f} MiB; {made.proof.in_words()}; {made.proof.accuracies()}")
    return {
        "torch": (on_torch(plain(before.network), torch.contiguous_format), normalized),
        "torch, channels last": (on_torch(before.network, torch.channels_last), normalized),
        "ONNX": (on_runtime(files["ONNX"]), normalized),
        "ONNX int8": (on_runtime(files["ONNX int8"]), normalized),
        "photo: Pillow, torch, channels last": (after_pillow(before), photos),
        "photo: Pillow, ONNX": (after_pillow(OnnxBackend(files["ONNX"], "cpu")), photos),
        "photo: ONNX with preprocessing": (on_runtime(files["whole"]), photos),
    }


def latency_p50_ms(answer: Callable, batch: np.ndarray) -> float:
    times = []
    for count in range(WARM_UP + PASSES):
        started = time.perf_counter()
        answer(batch)
        if count >= WARM_UP:
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def images_per_s(answer: Callable, batch: np.ndarray) -> float:
    answer(batch)
    started, passes = time.perf_counter(), 0
    while passes < 3 or time.perf_counter() - started < 1.0:
        answer(batch)
        passes += 1
    return passes * len(batch) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        compared = ways(arguments.ckpt, Path(folder))
        for _ in range(arguments.repeats):
            for name, (answer, make) in compared.items():
                kept = results.setdefault(name, {"latency_p50_ms": [], "images_per_s": []})
                kept["latency_p50_ms"].append(latency_p50_ms(answer, make(1)))
                kept["images_per_s"].append(images_per_s(answer, make(BATCH)))
    print(f"\n{'':36} {'latency p50, batch 1, ms':>28} {f'images/s, batch {BATCH}':>28}   n")
    for name, measured in results.items():
        cells = [f"{statistics.median(v):8.2f} ({min(v):.2f} to {max(v):.2f})" for v in measured.values()]
        print(f"{name:36} {cells[0]:>28} {cells[1]:>28}   {arguments.repeats}")
    out = PROJECT / "outputs" / "benchmarks" / "deployment.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, "at": time.strftime("%Y-%m-%d")}, indent=2) + "\n")


if __name__ == "__main__":
    main()
