"""Rank images by the certainty of their prediction, the least certain first."""

import heapq
import itertools

from inference.image_inputs import ImageInput
from inference.predictor import Prediction


def certainty(image_input: ImageInput, prediction: Prediction) -> tuple[bool, float]:
    """Return a sort key that is smallest for the image to look at first.

    Wrong predictions come first, by the probability of their label. Then come correct ones and those without a known label,
    by their confidence, which for correct ones is the probability of the label.
    """
    probabilities = prediction.probabilities
    label = image_input.label if image_input.label in probabilities else prediction.predicted
    return label == prediction.predicted, probabilities[label]


class LeastCertain:
    """Keep the `most` least certain of any number of predictions."""

    def __init__(self, most: int):
        self.most = most
        self.n = 0  # images that could be read
        self._kept: list[tuple] = []  # a heap, the most certain first
        self._count = itertools.count()

    def add(self, image_input: ImageInput, prediction: Prediction) -> None:
        if prediction.error:
            return
        self.n += 1
        correct, p = certainty(image_input, prediction)
        entry = ((-correct, -p), -next(self._count), image_input, prediction)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def sorted(self) -> list[tuple[ImageInput, Prediction]]:
        """Return the least certain first; among equals, the one that was added first."""
        return [entry[2:] for entry in sorted(self._kept, reverse=True)]
