"""Predict with a trained network: images in, predictions out. B images, S pixels a side, K classes."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.processor_time import own_cores
from common.run_record import Decision
from common.text import format_confidence
from datamodules.decode import DecodedImage, UnreadableImageError, decode_pixels, read_image
from datamodules.deep_pixels import DeepPixels, ValueRange
from inference.backends import Backend, ModelDescription, open_backend
from inference.image_inputs import ImageInput, resolve_images

log = logging.getLogger(__name__)

BATCH_SIZE = 16
AHEAD = 2  # batches that are being read while the network computes one
NOT_FINITE = "the network gives NaN for it"
CLIPPED = 0.05  # share of an image's values outside the range of the training images that is worth a warning
MOST_WAITING = 16  # batches' worth of inputs that may wait for one full batch when few files can be read


@dataclass(frozen=True, slots=True)
class Prediction:
    """Hold the prediction for one image.

    If the image could not be read, `error` is the reason and everything else is empty. If a network with damaged weights gives
    NaN, `error` says so.

    Attributes:
        path: where the image came from; None for an image in memory.
        fingerprint: 16 hex digits that identify the image's pixels.
        predicted: the class with the largest probability.
        probabilities: of each class, as the network computes them.
        calibrated: probabilities with the checkpoint's temperature; None if it has none.
        decided: the class by the checkpoint's threshold; None with more than two classes or without a decision.
        abstained: whether the largest probability is below the confidence from which on the checkpoint promises its target
            accuracy; True for every image if it promises none; None without a decision.
    """

    path: str | None
    fingerprint: str = ""
    predicted: str | None = None
    probabilities: dict[str, float] | None = None
    calibrated: dict[str, float] | None = None
    decided: str | None = None
    abstained: bool | None = None
    error: str = ""


class ReadyImage(NamedTuple):
    """An image that is ready for the network."""

    pixels: np.ndarray  # (S, S, 3) uint8
    fingerprint: str


class Predictor:
    """Predict the classes of images in three lines:

        from predict import Predictor
        model = Predictor.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
        model.predict(["a.jpg", Image.open("b.png"), array, tensor])

    Images of any size are resized and normalized as in training. `classes`, `image_size` and `decision` describe the network.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self.description: ModelDescription = backend.description
        self._warned = False
        # Numbers of images of which threads noted that much is outside the trained range, or that they have 8 bits
        self._clipped, self._shallow = [], []

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto", register: Sequence[str] = ()) -> "Predictor":
        """Load a run's best.ckpt, or the .onnx file that export.py made from it, which needs no torch.

        Args:
            device: auto (a GPU if there is one), cpu, cuda or cuda:N.
            register: full names of your own networks and heads that the checkpoint may use; it can use no others.

        Raises:
            UserError: no such file, one of another kind, or no such device.
        """
        return cls(open_backend(Path(path), device, register))

    @property
    def classes(self) -> list[str]:
        return self.description.classes

    @property
    def image_size(self) -> int:
        return self.description.image_size

    @property
    def decision(self) -> Decision | None:
        return self.description.decision

    def set_threshold(self, threshold: float) -> None:
        """Decide for the positive class of two from this probability on; errors as of `ModelDescription.with_threshold`."""
        self.description = self.description.with_threshold(threshold)

    def predict(self, images, batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """Return predictions in the order of the images; also a list for a single image.

        Args:
            images: one image or an iterable of them: a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), a tensor
                (3, H, W) or (1, H, W); or an array (N, H, W, 3) or tensor (N, 3, H, W); or a folder, pattern or table (.csv)
                as in `python predict.py images=`. The channels of arrays and tensors are RGB; OpenCV's arrays are BGR, and
                `array[..., ::-1]` makes them RGB. Values are uint8 from 0 to 255; other types (uint16, float) must have the
                values that the training images had, and are scaled by the range in the checkpoint.
            batch_size: images at a time; another size changes probabilities in about the seventh digit.

        Raises:
            UserError: a single path that does not exist, or something that is not an image. If one of several files cannot
                be read, its prediction has an `error` instead.
        """
        return [prediction for _, prediction in self.stream(_as_list(images), batch_size)]

    def stream(self, images: Iterable, batch_size: int = BATCH_SIZE) -> Iterator[tuple[object, Prediction]]:
        """Yield each image with its prediction, in order, while threads read the next images.

        Takes the same iterables as `predict`, and holds a few batches at a time.

        Raises:
            UserError: a batch size below 1.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise UserError(f"batch_size={batch_size}: use a whole number of 1 or more")
        return self._stream(images, batch_size)

    def _stream(self, images: Iterable, batch_size: int) -> Iterator[tuple[object, Prediction]]:
        waiting, readable, n_read = [], 0, 0
        self._clipped, self._shallow = [], []
        for item, decoded in self._read_ahead(images, AHEAD * batch_size):
            n_read += 1
            waiting.append((item, decoded))
            readable += isinstance(decoded, ReadyImage)
            if readable == batch_size or len(waiting) >= MOST_WAITING * batch_size:
                yield from self._predict_batch(waiting)
                waiting, readable = [], 0
        yield from self._predict_batch(waiting)
        if self._clipped:
            log.warning(
                "%s of %s images have more than %g%% of their values outside the range of the training images (%s), where "
                "they become black or white: another exposure or camera? The predictions may be wrong",
                f"{len(self._clipped):,}", f"{n_read:,}", CLIPPED * 100, self.description.value_range,
            )  # fmt: skip
        if self._shallow:
            log.warning(
                "%s of %s images have 8 bits per channel, but the network was trained on images of more (%s became black to "
                "white): they were made in another way. The predictions may be wrong",
                f"{len(self._shallow):,}", f"{n_read:,}", self.description.value_range,
            )  # fmt: skip

    def _read_ahead(self, images: Iterable, ahead: int) -> Iterator[tuple[object, ReadyImage | str]]:
        """Yield each image with its pixels, or the reason why there are none; Pillow decodes without holding the GIL."""
        pool = ThreadPoolExecutor(len(own_cores()))
        try:
            started = deque()
            for number, item in enumerate(images):
                started.append((item, pool.submit(self._read, item, number)))
                if len(started) > ahead:
                    first, result = started.popleft()
                    yield first, result.result()
            for first, result in started:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, item, number: int) -> ReadyImage | str:
        try:
            decoded = decode_item(item, self.image_size)
            value_range = self.description.value_range
            image = decoded.rgb(value_range, _path(item))
            self._note_scaled(decoded.source, value_range, number)
        except UnreadableImageError as error:
            return str(error)
        except UserError as error:
            raise UserError(f"images[{number}]: {error}") from error
        return ReadyImage(self.description.pixels(image), decoded.fingerprint())

    def _note_scaled(self, source: DeepPixels | Image.Image, value_range: ValueRange | None, number: int) -> None:
        """Warn once of images whose range is not known; note one beyond the range that training found, or of 8 bits.

        A range that was given clips training images, too, and may have been given for images of 8 bits.
        """
        found = value_range is not None and not value_range.of_all
        if not isinstance(source, DeepPixels):
            if found:
                self._shallow.append(number)
            return
        if source.stated is not None:
            return
        if value_range is None and not self._warned:
            self._warned = True
            log.warning(
                "images of more than 8 bits per channel are read with 0 as black and 65,535 as white, because the network was "
                "trained on 8-bit images; if they use another range, convert them first"
            )
        if found and source.share_outside(value_range.low, value_range.high) > CLIPPED:
            self._clipped.append(number)

    def _predict_batch(self, batch: list[tuple[object, ReadyImage | str]]) -> Iterator[tuple[object, Prediction]]:
        pixels = [decoded.pixels for _, decoded in batch if isinstance(decoded, ReadyImage)]
        results = self._decide(self.backend(np.stack(pixels)).astype(np.float64)) if pixels else iter(())
        for item, decoded in batch:
            if isinstance(decoded, str):
                yield item, Prediction(_path(item), error=decoded)
            else:
                yield item, Prediction(_path(item), decoded.fingerprint, **next(results))

    def _decide(self, probabilities: np.ndarray) -> Iterator[dict]:
        """Yield the fields of a Prediction that follow from probabilities (B, K), one dictionary per image."""
        decision = self.decision
        finite = np.isfinite(probabilities).all(axis=1)
        calibrated = np.full_like(probabilities, np.nan)
        if decision is not None:
            from evaluation.calibration import with_temperature  # late: scipy

            calibrated[finite] = with_temperature(probabilities[finite], decision.temperature)
        for row, calibrated_row, usable in zip(probabilities.tolist(), calibrated.tolist(), finite, strict=True):
            if not usable:
                yield {"error": NOT_FINITE}
                continue
            by_class = dict(zip(self.classes, row, strict=True))
            yield {
                "predicted": max(by_class, key=by_class.get),
                "probabilities": by_class,
                "calibrated": dict(zip(self.classes, calibrated_row, strict=True)) if decision else None,
                "decided": decided(by_class, decision),
                "abstained": abstained(by_class, decision),
            }


def decided(probabilities: dict[str, float], decision: Decision | None) -> str | None:
    """Return the class chosen by the threshold of the positive class; None if there is no threshold."""
    if decision is None or decision.threshold is None:
        return None
    positive = decision.positive_class
    other = next(name for name in probabilities if name != positive)
    return positive if probabilities[positive] >= decision.threshold else other


def abstained(probabilities: dict[str, float], decision: Decision | None) -> bool | None:
    """Return whether the confidence is too low, or no confidence promises the target accuracy; None without a decision."""
    if decision is None:
        return None
    return decision.confidence is None or max(probabilities.values()) < decision.confidence


def reason_to_abstain(decision: Decision) -> str:
    """Return why a decision abstains from an image."""
    target = f"accuracy {decision.target_accuracy:g}"
    if decision.confidence is None:
        return f"{target} is promised for no image"
    return f"confidence below {format_confidence(decision.confidence)}, too low for {target}"


def decode_item(item, image_size: int) -> DecodedImage:
    """Decode a path, a PIL image, an array (channels last) or a tensor (channels first).

    The file of a big JPEG is decoded at a fraction of its size; see `datamodules.decode`.

    Raises:
        UnreadableImageError: a file that is not an image.
        UserError: an array that is not an image, or a PIL image or tensor that cannot be decoded.
    """
    if isinstance(item, ImageInput):
        item = item.file
    if isinstance(item, (str, Path)):
        return read_image(Path(item), image_size)
    try:
        if hasattr(item, "cpu"):
            item = item.detach().cpu().numpy()
            item = np.moveaxis(item, 0, -1) if item.ndim == 3 else item
        return decode_pixels(item)
    except UserError:
        raise
    except Exception as error:  # a PIL image of a file that is cut off or closed, a tensor of bfloat16
        raise UserError(
            f"a {type(item).__name__} cannot be decoded ({error}); give a path, another image or an array"
        ) from error


def _as_list(images) -> Iterable:
    """Return a single image as a list, and a path as the images that it names."""
    if isinstance(images, (str, Path)):
        return resolve_images(str(images), None)
    if isinstance(images, Mapping) or not (hasattr(images, "ndim") or isinstance(images, (Image.Image, Iterable))):
        values = "; for its values: list(images.values())" if isinstance(images, Mapping) else ""
        raise UserError(
            f"{type(images).__name__} is not an image: give a path, a PIL image, an array, a tensor or several of these{values}"
        )
    single = isinstance(images, Image.Image) or (hasattr(images, "ndim") and images.ndim < 4)
    return [images] if single else images


def _path(item) -> str | None:
    if isinstance(item, ImageInput):
        return item.path
    return str(item) if isinstance(item, (str, Path)) else None
