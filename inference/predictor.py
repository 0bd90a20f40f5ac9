"""A trained network as a user sees it: images in, predictions out. B images, S pixels, K classes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.decode import UnreadableImageError, fingerprint, open_image, resize, upright
from inference.backends import Backend, ModelDescription, open_backend
from inference.image_inputs import ImageInput, ImageInputs

BATCH_SIZE = 16
AHEAD = 2  # batches that are being read while the network is at one
MOST_TOGETHER = 16  # batches' worth of lines that wait for one batch, where hardly a file can be read


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network says of one image; of one that could not be read, `error` says why and all else is empty.

    Attributes:
        path: where the image came from; None for one that was in memory.
        fingerprint: 16 hex digits that name the image's pixels.
        predicted: the class of the largest probability.
        probabilities: of each class, as the network gives them.
        calibrated: the same with the checkpoint's temperature; None where it has none.
        decided: what the checkpoint's threshold says; None for more than two classes, or without a decision.
        abstained: whether the largest probability is below the confidence from which on the checkpoint keeps the accuracy
            that was wanted; None without a decision.
    """

    path: str | None
    fingerprint: str = ""
    predicted: str | None = None
    probabilities: dict[str, float] | None = None
    calibrated: dict[str, float] | None = None
    decided: str | None = None
    abstained: bool | None = None
    error: str = ""


class DecodedImage(NamedTuple):
    """An image that is ready for the network."""

    pixels: np.ndarray  # (S, S, 3) uint8
    fingerprint: str


class Predictor:
    """Three lines:

        from predict import Predictor
        model = Predictor.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
        model.predict(["a.jpg", Image.open("b.png"), array, tensor])

    Images of any size are resized and normalized as in training. `classes`, `image_size` and `decision` say what the
    network knows.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self.description: ModelDescription = backend.description

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> "Predictor":
        """Of a run's best.ckpt, or of what export.py made of it (.onnx, which needs no torch).

        Args:
            device: auto (a GPU where there is one), cpu, cuda or cuda:N.

        Raises:
            ValueError: no such file, one of another kind, or no such device.
        """
        return cls(open_backend(Path(path), device))

    @property
    def classes(self) -> list[str]:
        return self.description.classes

    @property
    def image_size(self) -> int:
        return self.description.image_size

    @property
    def decision(self) -> dict | None:
        return self.description.decision

    def predict(self, images, batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """Predictions in the order of the images, also of a single one.

        Args:
            images: one image or an iterable of them: a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of
                uint8, a tensor (3, H, W) or (1, H, W) of uint8; or an array (N, H, W, 3) or tensor (N, 3, H, W); or a
                folder, pattern or table (.csv) as of `python predict.py images=`.
            batch_size: images at a time; another one changes probabilities in their seventh digit or so.

        Raises:
            ValueError: one path that is not there, or something that is no image of 8 bits. A file of several that cannot
                be read is a prediction with an `error`.
        """
        return [prediction for _, prediction in self.stream(_listed(images), batch_size)]

    def stream(self, sources: Iterable, batch_size: int = BATCH_SIZE) -> Iterator[tuple[object, Prediction]]:
        """Each image with its prediction, in their order, while the next ones are being read in threads.

        Takes what `predict` takes an iterable of, and holds a few batches at a time.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: use a whole number of 1 or more")
        return self._stream(sources, batch_size)

    def _stream(self, sources: Iterable, batch_size: int) -> Iterator[tuple[object, Prediction]]:
        waiting, readable = [], 0
        for source, read in self._read_ahead(sources, AHEAD * batch_size):
            waiting.append((source, read))
            readable += isinstance(read, DecodedImage)
            if readable == batch_size or len(waiting) >= MOST_TOGETHER * batch_size:
                yield from self._answered(waiting)
                waiting, readable = [], 0
        yield from self._answered(waiting)

    def _read_ahead(self, sources: Iterable, ahead: int) -> Iterator[tuple[object, DecodedImage | str]]:
        """Each image with its pixels, or the reason why there are none. Pillow lets go of the interpreter."""
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        try:
            begun = deque()
            for source in sources:
                begun.append((source, pool.submit(self._read, source)))
                if len(begun) > ahead:
                    first, result = begun.popleft()
                    yield first, result.result()
            for first, result in begun:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, source) -> DecodedImage | str:
        try:
            image = as_image(source, self.image_size)
        except UnreadableImageError as error:
            return str(error)
        return DecodedImage(np.asarray(resize(image, self.image_size)), fingerprint(image))

    def _answered(self, sources: list[tuple[object, DecodedImage | str]]) -> Iterator[tuple[object, Prediction]]:
        pixels = [read.pixels for _, read in sources if isinstance(read, DecodedImage)]
        answers = self._follow(self.backend(np.stack(pixels)).astype(np.float64)) if pixels else iter(())
        for source, read in sources:
            path = _path(source)
            if isinstance(read, str):
                yield source, Prediction(path, error=read)
            else:
                yield source, Prediction(path, read.fingerprint, **next(answers))

    def _follow(self, probabilities: np.ndarray) -> Iterator[dict]:
        """What follows from probabilities (B, K), a dictionary an image."""
        decision = self.decision
        calibrated = [None] * len(probabilities)
        if decision is not None:
            from evaluation.calibration import with_temperature  # late: scipy

            calibrated = with_temperature(probabilities, decision["temperature"])
        for line, warm in zip(probabilities.tolist(), calibrated, strict=True):
            named = dict(zip(self.classes, line, strict=True))
            yield {
                "predicted": max(named, key=named.get),
                "probabilities": named,
                "calibrated": None if warm is None else dict(zip(self.classes, warm.tolist(), strict=True)),
                "decided": decided(named, decision),
                "abstained": abstained(named, decision),
            }


def decided(probabilities: dict[str, float], decision: dict | None) -> str | None:
    """The class that the threshold of the positive one says; None where there is no threshold."""
    if not decision or "threshold" not in decision:
        return None
    positive = decision["positive_class"]
    other = next(name for name in probabilities if name != positive)
    return positive if probabilities[positive] >= decision["threshold"] else other


def abstained(probabilities: dict[str, float], decision: dict | None) -> bool | None:
    """Whether the confidence is too low; all are, where no share of the images could be decided as well as wanted."""
    if not decision:
        return None
    return decision["confidence"] is None or max(probabilities.values()) < decision["confidence"]


def as_image(source, image_size: int) -> Image.Image:
    """Upright RGB of a path, a PIL image, an array or a tensor.

    A big JPEG is read at a fraction of its size where a path says where it is; see `datamodules.decode`.

    Raises:
        UnreadableImageError: a file that is no image.
        ValueError: an array that is no image of 8 bits.
    """
    if isinstance(source, ImageInput):
        source = source.file
    if isinstance(source, (str, Path)):
        return open_image(Path(source), image_size)
    if isinstance(source, Image.Image):
        return upright(source)
    if hasattr(source, "detach"):  # a tensor, channels first
        source = source.detach().cpu().numpy()
        source = np.moveaxis(source, 0, -1) if source.ndim == 3 else source
    array = np.asarray(source)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"an image of shape {array.shape} and {array.dtype} cannot be used; arrays are (H, W, 3), tensors (3, H, W), "
            "both uint8 of 0 to 255"
        )
    return upright(Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array))


def _listed(images) -> Iterable:
    """One image as a list of one."""
    if isinstance(images, (str, Path)):
        return ImageInputs(str(images))
    one = isinstance(images, Image.Image) or (hasattr(images, "ndim") and images.ndim < 4)
    return [images] if one else images


def _path(source) -> str | None:
    if isinstance(source, ImageInput):
        return source.path
    return str(source) if isinstance(source, (str, Path)) else None
