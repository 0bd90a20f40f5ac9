"""Explain a checkpoint's predictions: B images, S pixels a side, C features, h x w positions of the last feature map."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.progress import Progress
from datamodules.decode import UnreadableImageError, open_image
from inference.arguments import EXAMPLE
from inference.backends import ModelDescription
from inference.image_inputs import ImageInput
from inference.predictor import Predictor

BATCH_SIZE = 16
MOST_TRAINING = 5000  # images that similar ones are searched among


class Explanation(NamedTuple):
    """Hold the results of `grad_cam.grad_cam` as arrays."""

    probabilities: np.ndarray  # (B, K)
    heat: np.ndarray  # (B, h, w)
    features: np.ndarray  # (B, C)


class SimilarImage(NamedTuple):
    """Hold a training image, and the cosine of its features with those of the image in question."""

    image_input: ImageInput
    cosine: float


class Explainer:
    """Compute where a network looks, and the features that say how similar images are.

    Raises:
        UserError: not a checkpoint but an exported file; or a network without feature maps.
    """

    def __init__(self, model: Predictor):
        from inference.explain.grad_cam import last_feature_map  # late: torch

        if not hasattr(model.backend, "network"):
            raise UserError(f"explain=true needs a checkpoint, not an exported file; give ckpt={EXAMPLE}")
        self.model = model
        self.network = model.backend.network
        self.layer, height, width = last_feature_map(self.network, model.image_size)
        side, crops = model.image_size, model.description.fit == "crop"
        self.map_size = f"{height} x {width} positions over an image of {side} x {side} pixels" + (
            ", the square in the center: the network does not see what has no color" if crops else ""
        )

    def explain(self, pixels: np.ndarray) -> Explanation:
        """Explain images (B, S, S, 3) uint8, each for its most probable class."""
        from inference.explain.grad_cam import grad_cam

        result = grad_cam(self.network, self.layer, self._batch(pixels))
        return Explanation(*(part.float().cpu().numpy() for part in result))

    def features(
        self, images: Sequence[ImageInput], progress: Progress | None = None
    ) -> tuple[np.ndarray, list[ImageInput]]:
        """Return the features (n, C) of the images that can be read, and these images."""
        from inference.explain.grad_cam import pooled_features

        vectors, read = [], []
        for start in range(0, len(images), BATCH_SIZE):
            if progress:
                progress.count(start, len(images))
            batch = images[start : start + BATCH_SIZE]
            decoded = zip(batch, open_images(batch, self.model.description), strict=True)
            opened = [(image_input, image) for image_input, image in decoded if image]
            if opened:
                pixels = np.stack([self.model.description.pixels(image) for _, image in opened])
                vectors.append(pooled_features(self.network, self.layer, self._batch(pixels)).float().cpu().numpy())
                read += [image_input for image_input, _ in opened]
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), read

    def _batch(self, pixels: np.ndarray):
        return self.model.description.normalized(pixels, self.model.backend.device)


class FeatureIndex:
    """Find training images by their features.

    Args:
        images: at most MOST_TRAINING of them are used, evenly spaced.
    """

    def __init__(self, explainer: Explainer, images: Sequence[ImageInput], progress: Progress | None = None):
        step = -(-len(images) // MOST_TRAINING) or 1
        used = list(images)[::step]
        vectors, self.images = explainer.features(used, progress)
        self.total, self.n_unread = len(images), len(used) - len(self.images)
        self._unit = unit(vectors)

    def nearest(self, features: np.ndarray, image_input: ImageInput | None) -> list[SimilarImage]:
        """Return the three training images with the features most similar to (C,), best first, without the image itself."""
        if not self.images:
            return []
        cosines = self._unit @ unit(features[None])[0]
        order = np.argsort(-cosines, kind="stable")
        itself = image_input.file.resolve() if image_input else None
        others = (index for index in order[:4] if self.images[index].file.resolve() != itself)
        return [SimilarImage(self.images[index], float(cosines[index])) for index in others][:3]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale each of (n, C) to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def open_images(
    images: Sequence[ImageInput], description: ModelDescription, side: int | None = None
) -> list[Image.Image | None]:
    """Return upright RGB images as a network sees them, read in threads; None for one that cannot be read.

    Args:
        side: smallest useful size in pixels; None: the size of the network's images.
    """

    def open_or_none(image_input: ImageInput) -> Image.Image | None:
        try:
            return open_image(image_input.file, side or description.image_size, description.value_range)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(open_or_none, images))
