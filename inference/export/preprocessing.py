"""Resize and normalize inside an exported file, and helpers for torch's exporters: N images, S pixels a side, K classes."""

import contextlib
import copy
import io
import logging
import sys
import threading
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.normalize import normalize
from inference.backends import ModelDescription
from inference.export.pillow_resize import resize_tensor


class Preprocessing(nn.Module):
    """Resize and normalize images (N, H, W, 3) uint8 of one size to (N, 3, S, S), as training does.

    Args:
        native: resize with the runtime's operator instead of Pillow's arithmetic: faster, but some pixels differ, and the
            whole image is squashed to the square.
    """

    def __init__(self, description: ModelDescription, native: bool = False):
        super().__init__()
        self.description, self.native = description, native

    def forward(self, images: Tensor) -> Tensor:
        described = self.description
        if self.native:
            resized = native_resize(images, described.image_size, described.interpolation)
        else:
            pixels = resize_tensor(images, described.image_size, described.fit, described.interpolation)
            resized = pixels.permute(0, 3, 1, 2)
        return normalize(resized, described.mean, described.std)


def native_resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize (N, H, W, 3) uint8 to (N, 3, S, S) whole numbers as float, with torch's own operator."""
    pixels = images.permute(0, 3, 1, 2).float()
    resized = functional.interpolate(pixels, (size, size), mode=interpolation, antialias=True, align_corners=False)
    return resized.round().clamp(0, 255)


class PreprocessedNetwork(nn.Module):
    """Compute probabilities (N, K) of images (N, H, W, 3) uint8."""

    def __init__(self, network: nn.Module, description: ModelDescription):
        super().__init__()
        self.preprocessing = Preprocessing(description)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocessing(images)).softmax(1)


class FixedSizeNetwork(nn.Module):
    """Compute probabilities (N, K) of images (N, S, S, 3) in 0 to 255; the caller resizes them."""

    def __init__(self, network: nn.Module, description: ModelDescription):
        super().__init__()
        mean, std = (torch.tensor(values) for values in (description.mean, description.std))
        # A convolution, because in 8 bits it rounds once; a product and a sum would round twice
        self.normalize = nn.Conv2d(3, 3, 1, groups=3).requires_grad_(False)
        self.normalize.weight.copy_((1 / (255 * std)).view(3, 1, 1, 1))
        self.normalize.bias.copy_(-mean / std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images.permute(0, 3, 1, 2).float())).softmax(1)


def example_images() -> Tensor:
    """Return images (2, 7, 1031, 3) uint8: one side smaller, the other larger than any network's input."""
    return torch.zeros(2, 7, 1031, 3, dtype=torch.uint8)


def plain(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode and in contiguous memory format."""
    return copy.deepcopy(network).cpu().float().to(memory_format=torch.contiguous_format).eval()


class _ButThisThread(io.TextIOBase):
    """Drop what this thread prints, and pass on what others print, such as how far a command is."""

    def __init__(self, stream):
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def quiet():
    """Silence torch's exporters, which warn about their own internals and log what they simplify."""
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(_ButThisThread(sys.stdout)):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
