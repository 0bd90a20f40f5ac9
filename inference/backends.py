"""Compute probabilities: a run's checkpoint on torch, or an ONNX file of export.py on onnxruntime.

B images, S pixels a side, K classes.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from common.errors import UserError
from common.run_record import Decision
from common.targets import import_extra
from common.untrusted.description import Fit, Interpolation, check_decision, check_description
from datamodules.decode import resize
from datamodules.deep_pixels import ValueRange
from inference.arguments import EXAMPLE, checkpoint_argument, is_read_by_predict

if TYPE_CHECKING:
    import torch

CHECKSUM = "sha256"  # name in the metadata of an ONNX file


@dataclass(frozen=True)
class ModelDescription:
    """Describe a trained network: its input, its output, and how to decide on that."""

    classes: list[str]
    image_size: int  # pixels, height and width
    mean: list[float]  # of each channel, as images are normalized
    std: list[float]
    decision: Decision | None
    fit: Fit = "squash"  # how an image becomes a square
    range: list | None = None  # of pixels of more than 8 bits: ValueRange
    interpolation: Interpolation = "bilinear"  # how it is resized

    def __post_init__(self):
        object.__setattr__(self, "range", None if self.range is None else list(self.range))

    @property
    def value_range(self) -> ValueRange | None:
        """The values that become 0 and 255 in pixels of more than 8 bits, as in training."""
        return None if self.range is None else ValueRange(*self.range)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an upright RGB image as the network takes it, (S, S, 3) uint8."""
        return np.array(resize(image, self.image_size, self.fit, self.interpolation))

    def normalized(self, pixels: np.ndarray, device: "torch.device | str" = "cpu") -> "torch.Tensor":
        """Return images (B, S, S, 3) uint8 as the network takes them, (B, 3, S, S) float32."""
        from datamodules.normalize import as_batch, normalize  # late: torch

        return normalize(as_batch(pixels).to(device, non_blocking=True), self.mean, self.std)

    def with_threshold(self, threshold: float) -> "ModelDescription":
        """Return the description with another threshold of the positive class of two.

        Raises:
            UserError: the network has another number of classes, or its checkpoint has no decision.
        """
        if self.decision is None or self.decision.positive_class is None:
            found = f"{len(self.classes):,} classes" if len(self.classes) != 2 else "no decision in its checkpoint"
            raise UserError(
                f"threshold={threshold}: is for a network with two classes and a decision; this one has {found}"
            )
        return replace(self, decision=replace(self.decision, threshold=float(threshold)))

    def as_metadata(self) -> dict[str, str]:
        """Return each value as JSON, for a file whose metadata are texts."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, texts: dict[str, str]) -> "ModelDescription":
        """Return the description that `as_metadata` wrote; the file is untrusted.

        Raises:
            UserError: a value is missing, is not JSON, or is one that export.py does not write.
        """
        # For files from before there was a choice
        defaults = {name: json.dumps(getattr(cls, name)) for name in ("fit", "range", "interpolation")}
        texts = defaults | texts
        missing = [field.name for field in fields(cls) if field.name not in texts]
        if missing:
            raise UserError(f"its {', '.join(missing)} is missing")
        try:
            values = {field.name: json.loads(texts[field.name]) for field in fields(cls)}
        except (ValueError, RecursionError) as error:
            raise UserError(f"its description is not JSON: {error}") from error
        decision = values.pop("decision")
        check_description(*values.values(), source="the file")
        return cls(**values, decision=check_decision(decision, values["classes"], "the file"))


class Backend(Protocol):
    """Compute probabilities (B, K) float32 of images (B, S, S, 3) uint8."""

    description: ModelDescription

    def __call__(self, pixels: np.ndarray) -> np.ndarray: ...


def open_backend(path: Path, device: str = "auto", register: Sequence[str] = ()) -> Backend:
    """Load a checkpoint or an ONNX file onto a device: auto, cpu, cuda or cuda:N.

    Args:
        register: full names of the user's own networks, backbones and heads that the checkpoint may use.

    Raises:
        UserError: no such file, a file of another kind, no such device, or onnxruntime is not installed.
    """
    path = checkpoint_argument(path, exported=True)
    return OnnxBackend(path, device) if is_read_by_predict(path) else CheckpointBackend(path, device, register)


class CheckpointBackend:
    """Compute probabilities with a checkpoint of a run, as its test stage did."""

    def __init__(self, path: Path, device: str = "auto", register: Sequence[str] = ()):
        from lightning_modules.checkpoint import load_network  # late: an ONNX file needs no torch
        from lightning_modules.network_errors import register_by_name

        register_by_name(register, "register")
        self.network, description, decision = load_network(path)
        del description["network"]
        self.description = ModelDescription(**description, decision=decision)
        self.device = torch_device(device)
        self.network.to(self.device)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits = self.network(self.description.normalized(pixels, self.device))
            return logits.float().softmax(1).cpu().numpy()


def checksum_entry(content: bytes) -> bytes:
    """Return the metadata entry that ends an ONNX file, in protobuf's encoding: the SHA-256 of all bytes before it."""
    key, value = CHECKSUM.encode(), json.dumps(hashlib.sha256(content).hexdigest()).encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(entry)]) + entry  # field 14 of ModelProto, metadata_props


class OnnxBackend:
    """Compute probabilities with a file of export.py, whether or not it has its preprocessing inside."""

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None):
        """Open the file; `threads` None: as many as torch uses."""
        self._arguments = path.absolute(), device, threads
        runtime = import_extra("onnxruntime", f"ckpt={path}", "onnx")
        available = runtime.get_available_providers()
        if device not in ("auto", "cpu") and "CUDAExecutionProvider" not in available:
            raise UserError(
                f"device={device}: onnxruntime supports only {', '.join(available)} here; use device=cpu for {path}"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise UserError(f"device={device}: not available; use auto or cpu, or with a GPU cuda or cuda:N")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        of_torch = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = threads or (int(of_torch) if of_torch.isdigit() else 0)  # 0: all cores
        on_gpu = device != "cpu" and "CUDAExecutionProvider" in available
        gpu = "CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}
        providers = [gpu, "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        try:
            self.session = runtime.InferenceSession(path, options, providers=providers)
            texts = self.session.get_modelmeta().custom_metadata_map
            if CHECKSUM in texts:  # older files have none
                content = path.read_bytes()
                start = len(content) - len(checksum_entry(b""))
                if content[start:] != checksum_entry(content[:start]):
                    raise UserError(
                        f"its bytes do not fit {CHECKSUM} in its metadata; if it was changed on purpose, remove that entry"
                    )
            self.description = ModelDescription.from_metadata(texts)
            shape, k = self.session.get_outputs()[0].shape, len(self.description.classes)
            if shape[1:] != [k]:
                raise UserError(f"its outputs have the shape {shape}, for {k} classes")
            self.input, side = self.session.get_inputs()[0], self.description.image_size
            if self.input.type != "tensor(uint8)" and self.input.shape[1:] != [3, side, side]:
                raise UserError(f"its input has the shape {self.input.shape}, for an image_size of {side}")
        except Exception as error:  # onnxruntime's errors have no common class
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: not an ONNX file of export.py, or a damaged one ({reason}); export it again with "
                f"python export.py ckpt={EXAMPLE}"
            ) from error
        mean, std = (np.array(values, np.float32) for values in (self.description.mean, self.description.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __reduce__(self) -> tuple:
        """Let pickle, and so another process, open the file again: onnxruntime's sessions cannot be pickled."""
        return OnnxBackend, self._arguments

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self.input.type == "tensor(uint8)":
            return self.session.run(None, {self.input.name: pixels})[0]
        batch = (pixels * self._scale + self._shift).transpose(0, 3, 1, 2)
        logits = self.session.run(None, {self.input.name: np.ascontiguousarray(batch)})[0]
        return softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def torch_device(name: str):
    """Return torch's device of this name, auto: a GPU if there is one; raise UserError if it does not exist here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name}: not available ({str(error).splitlines()[0]}); use auto, cpu, or with a GPU cuda or cuda:N"
        ) from error
    return device
