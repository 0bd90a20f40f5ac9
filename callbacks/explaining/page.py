"""One self-contained HTML page of explained pictures, without script, server or network."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from callbacks.predicting.picture_classifier import Prediction
from callbacks.predicting.sources import Picture
from reports.words import clean

from .drawing import SMALL_SIDE, as_jpeg, overlay, shown
from .explainer import BATCH_SIZE, Explainer, Gallery, Seen, open_all

HERE = Path(__file__).parent
REPORTS = HERE.parent.parent / "reports"  # whose look this page has
MOST_CLASSES = 5  # of the probabilities of a picture


class SimilarShown(NamedTuple):
    """A training picture on a page."""

    path: str
    label: str
    cosine: float
    image: str | None  # JPEG in base64


class Item(NamedTuple):
    """A picture on a page; its images are JPEGs in base64."""

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


def items(
    explainer: Explainer, gallery: Gallery | None, answers: Sequence[tuple[Picture, Prediction]]
) -> Iterator[Item]:
    """What the page shows of each answer whose picture can be read."""
    for start in range(0, len(answers), BATCH_SIZE):
        some = answers[start : start + BATCH_SIZE]
        images = open_all([picture for picture, _ in some], explainer.model.image_size)
        opened = [(*answer, image) for answer, image in zip(some, images, strict=True) if image]
        if opened:
            seen = explainer.look(np.stack([explainer.pixels(image) for *_, image in opened]))
            for place, (picture, prediction, image) in enumerate(opened):
                yield item(picture, prediction, image, Seen(*(part[place] for part in seen)), gallery)


def item(picture: Picture, prediction: Prediction, image: Image.Image, seen: Seen, gallery: Gallery | None) -> Item:
    """One picture; `seen` is its own part of a batch's."""
    small = shown(image)
    order = sorted(prediction.probabilities.items(), key=lambda share: -share[1])
    near = gallery.nearest(seen.features, picture) if gallery else []
    thumbnails = open_all([each.picture for each in near], SMALL_SIDE)
    return Item(
        path=picture.path,
        label=picture.label,
        known=picture.label in prediction.probabilities,
        predicted=prediction.predicted,
        right=picture.label == prediction.predicted,
        confidence=order[0][1],
        decided=prediction.decided,
        abstained=prediction.abstained,
        probabilities=order[:MOST_CLASSES],
        more=max(0, len(order) - MOST_CLASSES),
        image=as_jpeg(small),
        overlay=as_jpeg(overlay(small, seen.heat)),
        nothing=not seen.heat.any(),
        similar=[
            SimilarShown(
                each.picture.path,
                each.picture.label,
                each.cosine,
                as_jpeg(shown(thumbnail, SMALL_SIDE)) if thumbnail else None,
            )
            for each, thumbnail in zip(near, thumbnails, strict=True)
        ],
    )
