"""What answers: a run's checkpoint on torch, or an ONNX file of export.py on onnxruntime. B images, S pixels, K classes."""

import importlib
import json
import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.untrusted.description import check_decision, check_description
from inference.arguments import checkpoint_argument


class ModelDescription(NamedTuple):
    """What a trained network says of itself."""

    classes: list[str]
    image_size: int  # pixels, height and width
    mean: list[float]  # of each channel, as images are normalized
    std: list[float]
    decision: dict | None  # temperature, confidence, ..., as of evaluation.decision

    def as_metadata(self) -> dict[str, str]:
        """For a file that keeps texts: JSON of each value."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in self._asdict().items()}

    @classmethod
    def from_metadata(cls, texts: dict[str, str]) -> "ModelDescription":
        """Back from `as_metadata`; raises KeyError or ValueError where something is missing or is no JSON."""
        return cls(**{name: json.loads(texts[name]) for name in cls._fields})


class Backend(Protocol):
    """Images (B, S, S, 3) uint8 to probabilities (B, K) float32."""

    description: ModelDescription

    def __call__(self, pixels: np.ndarray) -> np.ndarray: ...


def open_backend(path: Path, device: str = "auto") -> Backend:
    """What the file holds, ready on the device: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: no such file, one of another kind, a device that is not here, or onnxruntime not installed.
    """
    path = checkpoint_argument(path, exported=True)
    if path.suffix.lower() == ".pt2":
        raise ValueError(
            f"ckpt={path}: a program of torch.export, which is for use elsewhere; give the checkpoint or an .onnx file"
        )
    return OnnxBackend(path, device) if path.suffix.lower() == ".onnx" else CheckpointBackend(path, device)


class CheckpointBackend:
    """best.ckpt or last.ckpt of a run, computed as its test stage did."""

    def __init__(self, path: Path, device: str = "auto"):
        from lightning_modules.checkpoint import load_network  # late: an ONNX file needs no torch

        self.network, described, decision = load_network(path)
        self.description = ModelDescription(
            described["classes"], described["image_size"], described["mean"], described["std"], decision
        )
        self.device = torch_device(device)
        self.network.to(self.device)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        from datamodules.normalize import as_batch, normalize

        with torch.inference_mode():
            batch = as_batch(pixels).to(self.device, non_blocking=True)
            logits = self.network(normalize(batch, self.description.mean, self.description.std))
            return logits.float().softmax(1).cpu().numpy()


class OnnxBackend:
    """A file of export.py, with its preprocessing inside or without."""

    def __init__(self, path: Path, device: str = "auto"):
        runtime = import_onnx_extra("onnxruntime", f"ckpt={path}")
        available = runtime.get_available_providers()
        if device not in ("auto", "cpu") and "CUDAExecutionProvider" not in available:
            raise ValueError(f"device={device}: onnxruntime has {', '.join(available)} here; use device=cpu for {path}")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        threads = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = int(threads) if threads.isdigit() else 0  # as torch; 0: all cores
        on_gpu = device != "cpu" and "CUDAExecutionProvider" in available
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        try:
            self.session = runtime.InferenceSession(path, options, providers=providers)
            self.description = _described(self.session.get_modelmeta().custom_metadata_map)
            *described, decision = self.description
            check_description(*described, source="the file")
            check_decision(decision, self.description.classes, "the file")
            shape, k = self.session.get_outputs()[0].shape, len(self.description.classes)
            if shape[1:] != [k]:
                raise ValueError(f"its answers are of shape {shape}, for {k} classes")
        except Exception as error:  # its errors have no common class
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path}: not an ONNX file of export.py, or a damaged one ({reason}); make it anew with python export.py "
                "ckpt=RUN/checkpoints/best.ckpt"
            ) from error
        self.input = self.session.get_inputs()[0]
        mean, std = (np.array(values, np.float32) for values in (self.description.mean, self.description.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self.input.type == "tensor(uint8)":
            return self.session.run(None, {self.input.name: pixels})[0]
        batch = (pixels * self._scale + self._shift).transpose(0, 3, 1, 2)
        logits = self.session.run(None, {self.input.name: np.ascontiguousarray(batch)})[0]
        return softmax(logits)


def _described(texts: dict[str, str]) -> ModelDescription:
    missing = [name for name in ModelDescription._fields if name not in texts]
    if missing:
        raise ValueError(f"it does not say its {', '.join(missing)}")
    return ModelDescription.from_metadata(texts)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def import_onnx_extra(package: str, wanted_by: str):
    """A package of the extra onnx.

    Raises:
        ValueError: not installed; names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{wanted_by}: {package} is not installed; install it with pip install -e '.[onnx]'"
        ) from error


def torch_device(name: str):
    """torch's device of this name; auto: a GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name}: not here ({str(error).splitlines()[0]}); use auto, cpu, or with a GPU cuda or cuda:N"
        ) from error
    return device
