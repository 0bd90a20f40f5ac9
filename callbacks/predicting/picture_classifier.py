"""A trained network as a user sees it: pictures in, predictions out. B pictures, S pixels, K classes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.decode import UnreadablePictureError, fingerprint, open_picture, resize, upright

from .backends import Backend, Description, open_backend
from .sources import Picture, Pictures

BATCH_SIZE = 16
AHEAD = 2  # batches that are being read while the network is at one
MOST_TOGETHER = 16  # batches' worth of lines that wait for one batch, where hardly a file can be read


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network says of one picture; of one that could not be read, `error` says why and all else is empty.

    Attributes:
        path: where the picture came from; None for one that was in memory.
        fingerprint: 16 hex digits that name the picture's pixels.
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


class Read(NamedTuple):
    """A picture that is ready for the network."""

    pixels: np.ndarray  # (S, S, 3) uint8
    fingerprint: str


class Classifier:
    """Three lines:

        from predict import Classifier
        model = Classifier.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
        model.predict(["a.jpg", Image.open("b.png"), array, tensor])

    Pictures of any size are resized and normalised as in training. `classes`, `image_size` and `decision` say what the
    network knows.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self.description: Description = backend.description

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> "Classifier":
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
        """Predictions in the order of the pictures, also of a single one.

        Args:
            images: one picture or an iterable of them: a path, a PIL picture, an array (H, W), (H, W, 3) or (H, W, 4) of
                uint8, a tensor (3, H, W) or (1, H, W) of uint8; or an array (N, H, W, 3) or tensor (N, 3, H, W); or a
                folder, pattern or table (.csv) as of `python predict.py images=`.
            batch_size: pictures at a time; another one changes probabilities in their seventh digit or so.

        Raises:
            ValueError: one path that is not there, or something that is no picture of 8 bits. A file of several that cannot
                be read is a prediction with an `error`.
        """
        return [prediction for _, prediction in self.stream(_listed(images), batch_size)]

    def stream(self, pictures: Iterable, batch_size: int = BATCH_SIZE) -> Iterator[tuple[object, Prediction]]:
        """Each picture with its prediction, in their order, while the next ones are being read in threads.

        Takes what `predict` takes an iterable of, and holds a few batches at a time.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: use a whole number of 1 or more")
        return self._stream(pictures, batch_size)

    def _stream(self, pictures: Iterable, batch_size: int) -> Iterator[tuple[object, Prediction]]:
        waiting, readable = [], 0
        for picture, read in self._read_ahead(pictures, AHEAD * batch_size):
            waiting.append((picture, read))
            readable += isinstance(read, Read)
            if readable == batch_size or len(waiting) >= MOST_TOGETHER * batch_size:
                yield from self._answered(waiting)
                waiting, readable = [], 0
        yield from self._answered(waiting)

    def _read_ahead(self, pictures: Iterable, ahead: int) -> Iterator[tuple[object, Read | str]]:
        """Each picture with its pixels, or the reason why there are none. Pillow lets go of the interpreter."""
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        try:
            begun = deque()
            for picture in pictures:
                begun.append((picture, pool.submit(self._read, picture)))
                if len(begun) > ahead:
                    first, result = begun.popleft()
                    yield first, result.result()
            for first, result in begun:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, picture) -> Read | str:
        try:
            image = as_image(picture, self.image_size)
        except UnreadablePictureError as error:
            return str(error)
        return Read(np.asarray(resize(image, self.image_size)), fingerprint(image))

    def _answered(self, pictures: list[tuple[object, Read | str]]) -> Iterator[tuple[object, Prediction]]:
        pixels = [read.pixels for _, read in pictures if isinstance(read, Read)]
        answers = self._follow(self.backend(np.stack(pixels)).astype(np.float64)) if pixels else iter(())
        for picture, read in pictures:
            path = _path(picture)
            if isinstance(read, str):
                yield picture, Prediction(path, error=read)
            else:
                yield picture, Prediction(path, read.fingerprint, **next(answers))

    def _follow(self, probabilities: np.ndarray) -> Iterator[dict]:
        """What follows from probabilities (B, K), a dictionary a picture."""
        decision = self.decision
        calibrated = [None] * len(probabilities)
        if decision is not None:
            from reports.calibration import with_temperature  # late: scipy

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
    """Whether the confidence is too low; all are, where no share of the pictures could be decided as well as wanted."""
    if not decision:
        return None
    return decision["confidence"] is None or max(probabilities.values()) < decision["confidence"]


def as_image(picture, image_size: int) -> Image.Image:
    """Upright RGB of a path, a PIL picture, an array or a tensor.

    A big JPEG is read at a fraction of its size where a path says where it is; see `datamodules.decode`.

    Raises:
        UnreadablePictureError: a file that is no picture.
        ValueError: an array that is no picture of 8 bits.
    """
    if isinstance(picture, Picture):
        picture = picture.file
    if isinstance(picture, (str, Path)):
        return open_picture(Path(picture), image_size)
    if isinstance(picture, Image.Image):
        return upright(picture)
    if hasattr(picture, "detach"):  # a tensor, channels first
        picture = picture.detach().cpu().numpy()
        picture = np.moveaxis(picture, 0, -1) if picture.ndim == 3 else picture
    array = np.asarray(picture)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"a picture of shape {array.shape} and {array.dtype} cannot be used; arrays are (H, W, 3), tensors (3, H, W), "
            "both uint8 of 0 to 255"
        )
    return upright(Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array))


def _listed(images) -> Iterable:
    """One picture as a list of one."""
    if isinstance(images, (str, Path)):
        return Pictures(str(images))
    one = isinstance(images, Image.Image) or (hasattr(images, "ndim") and images.ndim < 4)
    return [images] if one else images


def _path(picture) -> str | None:
    if isinstance(picture, Picture):
        return picture.path
    return str(picture) if isinstance(picture, (str, Path)) else None
