"""A checkpoint that can say why. B images, S pixels, C features, n training images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.decode import UnreadableImageError, open_image, resize
from inference.image_inputs import ImageInput
from inference.predictor import Predictor

BATCH_SIZE = 16
MOST_TRAINING = 5000  # images that similar ones are looked for among


class Explanation(NamedTuple):
    """As of `grad_cam.look`, in numpy."""

    probabilities: np.ndarray  # (B, K)
    heat: np.ndarray  # (B, h, w)
    features: np.ndarray  # (B, C)


class SimilarImage(NamedTuple):
    """A training image, and the cosine of its features with those of the image in question."""

    source: ImageInput
    cosine: float


class Explainer:
    """Where a network looks, and what it finds alike.

    Raises:
        ValueError: not a checkpoint but an exported file; or a network without feature maps.
    """

    def __init__(self, model: Predictor):
        from inference.explain.grad_cam import last_feature_map  # late: torch

        if not hasattr(model.backend, "network"):
            raise ValueError("explain=true needs a checkpoint with its gradients; give ckpt=RUN/checkpoints/best.ckpt")
        self.model = model
        self.network = model.backend.network
        self.layer, *self.map_size = last_feature_map(self.network, model.image_size)  # height and width of the map

    def look(self, pixels: np.ndarray) -> Explanation:
        """Of images (B, S, S, 3) uint8, each for the class of its largest probability."""
        from inference.explain.grad_cam import grad_cam

        return Explanation(
            *(part.float().cpu().numpy() for part in grad_cam(self.network, self.layer, self._batch(pixels)))
        )

    def features(self, sources: Sequence[ImageInput]) -> tuple[np.ndarray, list[ImageInput]]:
        """(n, C) of the images that can be read, and which these are."""
        from inference.explain.grad_cam import pooled_features

        vectors, read = [], []
        for start in range(0, len(sources), BATCH_SIZE):
            some = sources[start : start + BATCH_SIZE]
            opened = [
                (p, image) for p, image in zip(some, open_images(some, self.model.image_size), strict=True) if image
            ]
            if opened:
                pixels = np.stack([self.pixels(image) for _, image in opened])
                vectors.append(pooled_features(self.network, self.layer, self._batch(pixels)).float().cpu().numpy())
                read += [source for source, _ in opened]
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), read

    def pixels(self, image: Image.Image) -> np.ndarray:
        """(S, S, 3) as the network takes it."""
        return np.asarray(resize(image, self.model.image_size))

    def _batch(self, pixels: np.ndarray):
        from datamodules.normalize import as_batch, normalize

        described = self.model.description
        return normalize(as_batch(pixels).to(self.model.backend.device), described.mean, described.std)


class FeatureIndex:
    """Training images by their features.

    Args:
        images: of more than MOST_TRAINING every so-manieth is taken.
    """

    def __init__(self, explainer: Explainer, sources: Sequence[ImageInput]):
        step = -(-len(sources) // MOST_TRAINING) or 1
        taken = list(sources)[::step]
        vectors, self.sources = explainer.features(taken)
        self.total, self.unread = len(sources), len(taken) - len(self.sources)
        self._unit = unit(vectors)

    def nearest(self, features: np.ndarray, source: ImageInput | None, most: int = 3) -> list[SimilarImage]:
        """The training images most like one of features (C,), without itself, the most similar first."""
        if not self.sources:
            return []
        cosines = self._unit @ unit(features[None])[0]
        order = np.argsort(-cosines, kind="stable")
        itself = source.file.resolve() if source else None
        found = []
        for place in order[: most + 1]:
            if len(found) < most and (itself is None or self.sources[place].file.resolve() != itself):
                found.append(SimilarImage(self.sources[place], float(cosines[place])))
        return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, C), each of length 1; one of zeros stays so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def open_images(sources: Sequence[ImageInput], image_size: int) -> list[Image.Image | None]:
    """Upright RGB images, read in threads; None for one that cannot be read."""

    def opened(source: ImageInput) -> Image.Image | None:
        try:
            return open_image(source.file, image_size)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(opened, sources))
