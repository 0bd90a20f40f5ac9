"""One self-contained HTML page of explained images, without script, server or network."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from common.text import clean
from inference.explain.explainer import BATCH_SIZE, Explainer, Explanation, FeatureIndex, open_images
from inference.explain.overlay import SMALL_SIDE, encode_jpeg, fit_for_page, overlay
from inference.image_inputs import ImageInput
from inference.predictor import Prediction

HERE = Path(__file__).parent
REPORTS = HERE.parent.parent / "reports"  # whose look this page has
MOST_CLASSES = 5  # of the probabilities of an image


class SimilarShown(NamedTuple):
    """A training image on a page."""

    path: str
    label: str
    cosine: float
    image: str | None  # JPEG in base64


class Item(NamedTuple):
    """An image on a page; its images are JPEGs in base64."""

    path: str
    label: str
    known: bool  # whether the label is one of the network's classes
    predicted: str
    right: bool
    confidence: float
    decided: str | None
    abstained: bool | None
    probabilities: list[tuple[str, float]]
    more: int  # classes that are not among these
    image: str
    overlay: str
    nothing: bool  # no place speaks for the class
    similar: list[SimilarShown]


def environment() -> Environment:
    """Jinja2's, escaping everything, with the templates of this folder and the look of reports."""
    return Environment(
        loader=FileSystemLoader([HERE, REPORTS]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: value if isinstance(value, Markup) else clean(value),
    )  # fmt: skip


def render(**values) -> str:
    """The page; see page.html for what it needs."""
    return environment().get_template("page.html").render(**values).lstrip()


def page_items(
    explainer: Explainer, gallery: FeatureIndex | None, answers: Sequence[tuple[ImageInput, Prediction]]
) -> Iterator[Item]:
    """What the page shows of each answer whose image can be read."""
    for start in range(0, len(answers), BATCH_SIZE):
        some = answers[start : start + BATCH_SIZE]
        images = open_images([source for source, _ in some], explainer.model.image_size)
        opened = [(*answer, image) for answer, image in zip(some, images, strict=True) if image]
        if opened:
            seen = explainer.look(np.stack([explainer.pixels(image) for *_, image in opened]))
            for place, (source, prediction, image) in enumerate(opened):
                yield page_item(source, prediction, image, Explanation(*(part[place] for part in seen)), gallery)


def page_item(
    source: ImageInput, prediction: Prediction, image: Image.Image, seen: Explanation, gallery: FeatureIndex | None
) -> Item:
    """One image; `seen` is its own part of a batch's."""
    small = fit_for_page(image)
    order = sorted(prediction.probabilities.items(), key=lambda share: -share[1])
    near = gallery.nearest(seen.features, source) if gallery else []
    thumbnails = open_images([each.source for each in near], SMALL_SIDE)
    return Item(
        path=source.path,
        label=source.label,
        known=source.label in prediction.probabilities,
        predicted=prediction.predicted,
        right=source.label == prediction.predicted,
        confidence=order[0][1],
        decided=prediction.decided,
        abstained=prediction.abstained,
        probabilities=order[:MOST_CLASSES],
        more=max(0, len(order) - MOST_CLASSES),
        image=encode_jpeg(small),
        overlay=encode_jpeg(overlay(small, seen.heat)),
        nothing=not seen.heat.any(),
        similar=[
            SimilarShown(
                each.source.path,
                each.source.label,
                each.cosine,
                encode_jpeg(fit_for_page(thumbnail, SMALL_SIDE)) if thumbnail else None,
            )
            for each, thumbnail in zip(near, thumbnails, strict=True)
        ],
    )
