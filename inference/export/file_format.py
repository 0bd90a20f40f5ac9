"""A format of export.py: one class, and a file in conf/format (or in DIR/format with --config-dir=DIR) that names it."""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.progress import Progress
from datamodules.decode import open_image
from inference.backends import ModelDescription, softmax
from inference.export.verify import VerificationImages
from inference.image_inputs import ImageInput

if TYPE_CHECKING:
    from torch import Tensor, nn

Computes = Callable[[np.ndarray], np.ndarray]  # images -> probabilities (N, K)


@dataclass(frozen=True)
class TrainedModel:
    """Hold what a format writes: N images, S pixels a side, K classes."""

    network: "nn.Module"  # normalized images (N, 3, S, S) -> logits (N, K); on the CPU, in eval mode
    description: ModelDescription
    preprocessing: bool  # the file takes images (N, H, W, 3) uint8 and gives probabilities; else it is the network only
    metadata: dict[str, str]  # description, format, decoder and version, each as JSON
    calibration: list[ImageInput]  # training images; empty unless the format calibrates
    compared: VerificationImages  # export.py compares the file with the checkpoint on these
    progress: Progress  # its `set` names what takes long, for the screen

    def calibration_batches(self) -> Iterator[np.ndarray]:
        """Yield training images as the network takes them, (1, 3, S, S) float32 each."""
        for pixels in self.calibration_images():
            yield self.normalized(pixels).numpy()

    def calibration_images(self) -> Iterator[np.ndarray]:
        """Yield training images, resized, (1, S, S, 3) uint8 each."""
        for done, image_input in enumerate(self.calibration, start=1):
            self.progress.count(done, len(self.calibration))
            image = open_image(image_input.file, self.description.image_size, self.description.value_range)
            yield self.description.pixels(image)[None]

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the checkpoint gives for images (N, S, S, 3) uint8, (N, K)."""
        import torch

        with torch.inference_mode():
            return softmax(self.network(self.normalized(pixels)).numpy())

    def as_function(self, module: "nn.Module") -> Computes:
        """Wrap a torch module that computes what the file does, as `FileFormat.open` has to return it."""
        import torch

        def compute(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                if self.preprocessing:
                    return module(torch.tensor(pixels)).numpy()
                return softmax(module(self.normalized(pixels)).numpy())

        return compute

    def normalized(self, pixels: np.ndarray) -> "Tensor":
        """Return images (N, S, S, 3) uint8 as the network takes them."""
        return self.description.normalized(pixels).contiguous()


class FileFormat(abc.ABC):
    """Write a trained network to one file or folder, and open that to compare it with the checkpoint.

    Attributes:
        name: of the format, in messages and in the file's metadata.
        suffix: of the file or folder, appended to the checkpoint's name.
        is_folder: whether it writes a folder; export.py then lists the files in export.json.
        packages: that have to be installed.
        extra: this project's extra that installs them.
        calibrates: whether it needs training images.
        exact: whether `largest_difference` binds it; if not, `least_agreement` does, and it is measured on more images.
        exact_instead: the setting that gives an exact file, for the message that refuses one that is not.
        resizes: whether a file with preprocessing resizes images itself.
        resizes_exactly: whether `largest_difference` binds its resizing even if the format is not exact.
    """

    name: str
    suffix: str
    is_folder = False
    packages: tuple[str, ...] = ()
    extra = ""
    calibrates = False
    exact = True
    exact_instead = "format=onnx"
    resizes = True
    resizes_exactly = False

    def __str__(self) -> str:
        """Name the format and its class in a message."""
        return f"format={self.name} ({type(self).__module__}.{type(self).__qualname__})"

    @abc.abstractmethod
    def write(self, model: TrainedModel, path: Path) -> None:
        """Write the file, or fill the empty folder; if this raises, nothing of it is kept."""

    @abc.abstractmethod
    def open(self, path: Path, model: TrainedModel) -> Computes:
        """Return a function that runs what was written; it is compared with the checkpoint.

        It takes images (N, H, W, 3) uint8 of any size if the file resizes, else (N, S, S, 3), and returns probabilities
        (N, K).
        """

    def check(self, path: Path, model: TrainedModel) -> None:  # noqa: B027 most formats write nothing else
        """Check everything written that does not compute probabilities.

        Raises:
            UserError: it differs from what the checkpoint computes; nothing written is kept.
        """

    def open_unrounded(self, model: TrainedModel) -> Computes | None:
        """Return a format's network before rounding to 8 bits, which `largest_difference` binds; None: nothing to compare."""
        return None

    def open_on_one_thread(self, path: Path, model: TrainedModel) -> Computes | None:
        """Return what `open` returns, limited to one thread, to measure its latency; None: it is not measured."""
        return None

    def describe(self, preprocessing: bool) -> str:
        """Return what goes into the file and what comes out, for the screen."""
        if preprocessing:
            return "images (N, H, W, 3) uint8 of any size in, probabilities out"
        return "normalized images (N, 3, S, S) in, logits out"
