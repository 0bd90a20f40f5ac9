"""A checkpoint that can say why. B pictures, S pixels, C features, n training pictures."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from callbacks.predicting.picture_classifier import Classifier
from callbacks.predicting.sources import Picture
from datamodules.decode import UnreadablePictureError, open_picture, resize

BATCH_SIZE = 16
MOST_TRAINING = 5000  # pictures that similar ones are looked for among


class Seen(NamedTuple):
    """As of `grad_cam.look`, in numpy."""

    probabilities: np.ndarray  # (B, K)
    heat: np.ndarray  # (B, h, w)
    features: np.ndarray  # (B, C)


class Similar(NamedTuple):
    """A training picture, and the cosine of its features with those of the picture in question."""

    picture: Picture
    cosine: float


class Explainer:
    """Where a network looks, and what it finds alike.

    Raises:
        ValueError: not a checkpoint but an exported file; or a network without feature maps.
    """

    def __init__(self, model: Classifier):
        from .grad_cam import last_map  # late: torch

        if not hasattr(model.backend, "network"):
            raise ValueError("explain=true needs a checkpoint with its gradients; give ckpt=RUN/checkpoints/best.ckpt")
        self.model = model
        self.network = model.backend.network
        self.layer, *self.map_size = last_map(self.network, model.image_size)  # height and width of the map

    def look(self, pixels: np.ndarray) -> Seen:
        """Of pictures (B, S, S, 3) uint8, each for the class of its largest probability."""
        from .grad_cam import look

        return Seen(*(part.float().cpu().numpy() for part in look(self.network, self.layer, self._batch(pixels))))

    def features(self, pictures: Sequence[Picture]) -> tuple[np.ndarray, list[Picture]]:
        """(n, C) of the pictures that can be read, and which these are."""
        from .grad_cam import pooled

        vectors, read = [], []
        for start in range(0, len(pictures), BATCH_SIZE):
            some = pictures[start : start + BATCH_SIZE]
            opened = [(p, image) for p, image in zip(some, open_all(some, self.model.image_size), strict=True) if image]
            if opened:
                pixels = np.stack([self.pixels(image) for _, image in opened])
                vectors.append(pooled(self.network, self.layer, self._batch(pixels)).float().cpu().numpy())
                read += [picture for picture, _ in opened]
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), read

    def pixels(self, image: Image.Image) -> np.ndarray:
        """(S, S, 3) as the network takes it."""
        return np.asarray(resize(image, self.model.image_size))

    def _batch(self, pixels: np.ndarray):
        from datamodules.normalise import as_batch, normalise

        described = self.model.description
        return normalise(as_batch(pixels).to(self.model.backend.device), described.mean, described.std)


class Gallery:
    """Training pictures by their features.

    Args:
        pictures: of more than MOST_TRAINING every so-manieth is taken.
    """

    def __init__(self, explainer: Explainer, pictures: Sequence[Picture]):
        step = -(-len(pictures) // MOST_TRAINING) or 1
        taken = list(pictures)[::step]
        vectors, self.pictures = explainer.features(taken)
        self.total, self.unread = len(pictures), len(taken) - len(self.pictures)
        self._unit = unit(vectors)

    def nearest(self, features: np.ndarray, picture: Picture | None, most: int = 3) -> list[Similar]:
        """The training pictures most like one of features (C,), without itself, the most similar first."""
        if not self.pictures:
            return []
        cosines = self._unit @ unit(features[None])[0]
        order = np.argsort(-cosines, kind="stable")
        itself = picture.file.resolve() if picture else None
        found = []
        for place in order[: most + 1]:
            if len(found) < most and (itself is None or self.pictures[place].file.resolve() != itself):
                found.append(Similar(self.pictures[place], float(cosines[place])))
        return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, C), each of length 1; one of zeros stays so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def open_all(pictures: Sequence[Picture], image_size: int) -> list[Image.Image | None]:
    """Upright RGB pictures, read in threads; None for one that cannot be read."""

    def opened(picture: Picture) -> Image.Image | None:
        try:
            return open_picture(picture.file, image_size)
        except UnreadablePictureError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(opened, pictures))
