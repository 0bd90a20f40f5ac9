"""Render explained images as one self-contained HTML page, without script, server or network."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.html import jinja_environment
from common.image_grid import jpeg_base64, thumbnail
from inference.backends import ModelDescription
from inference.explain.explainer import BATCH_SIZE, Explainer, Explanation, FeatureIndex, open_images
from inference.explain.overlay import overlay
from inference.image_inputs import ImageInput
from inference.predictor import Prediction, reason_to_abstain

TEMPLATES = Path(__file__).parent
SIDE = 256  # pixels, the longer side of a shown image
SIMILAR_SIDE = 112  # of a similar training image
MOST_CLASSES = 5  # of the probabilities of an image


class SimilarItem(NamedTuple):
    """A training image on the page."""

    path: str
    label: str
    cosine: float
    image: str | None  # JPEG in base64


class Item(NamedTuple):
    """An explained image on the page; its images are JPEGs in base64."""

    path: str
    label: str
    label_known: bool  # whether it is one of the network's classes
    predicted: str
    correct: bool
    confidence: float
    decided: str | None
    abstained: str | None  # why
    probabilities: list[tuple[str, float]]
    n_more: int  # classes that are not among these
    image: str
    overlay: str
    has_heat: bool  # whether any position adds to the class
    similar: list[SimilarItem]


def render(**values) -> str:
    """Return the page; see page.html for the values that it needs."""
    return jinja_environment(TEMPLATES).get_template("page.html").render(**values).lstrip()


def page_items(
    explainer: Explainer, feature_index: FeatureIndex | None, predictions: Sequence[tuple[ImageInput, Prediction]]
) -> Iterator[Item]:
    """Yield the item of each prediction whose image can still be read."""
    description = explainer.model.description
    for start in range(0, len(predictions), BATCH_SIZE):
        batch = predictions[start : start + BATCH_SIZE]
        images = open_images([image_input for image_input, _ in batch], description)
        opened = [(*entry, image) for entry, image in zip(batch, images, strict=True) if image]
        if opened:
            explanation = explainer.explain(np.stack([description.pixels(image) for *_, image in opened]))
            for entry, *of_image in zip(opened, *explanation, strict=True):
                yield _item(*entry, Explanation(*of_image), feature_index, description)


def _item(
    image_input: ImageInput,
    prediction: Prediction,
    image: Image.Image,
    explanation: Explanation,
    feature_index: FeatureIndex | None,
    description: ModelDescription,
) -> Item:
    """Return the item of one image; `explanation` has no batch dimension."""
    shown = thumbnail(image, SIDE)
    by_probability = sorted(prediction.probabilities.items(), key=lambda entry: -entry[1])
    nearest = feature_index.nearest(explanation.features, image_input) if feature_index else []
    similar_images = open_images([similar.image_input for similar in nearest], description, SIMILAR_SIDE)
    return Item(
        path=image_input.path,
        label=image_input.label,
        label_known=image_input.label in prediction.probabilities,
        predicted=prediction.predicted,
        correct=image_input.label == prediction.predicted,
        confidence=by_probability[0][1],
        decided=prediction.decided,
        abstained=reason_to_abstain(description.decision) if prediction.abstained else None,
        probabilities=by_probability[:MOST_CLASSES],
        n_more=max(0, len(by_probability) - MOST_CLASSES),
        image=jpeg_base64(shown),
        overlay=jpeg_base64(overlay(shown, explanation.heat, description.image_size, description.fit)),
        has_heat=bool(explanation.heat.any()),
        similar=[
            SimilarItem(
                similar.image_input.path,
                similar.image_input.label,
                similar.cosine,
                jpeg_base64(thumbnail(similar_image, SIMILAR_SIDE)) if similar_image else None,
            )
            for similar, similar_image in zip(nearest, similar_images, strict=True)
        ],
    )
