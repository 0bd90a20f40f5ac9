"""Which images to look at first."""

import heapq
import itertools

from inference.image_inputs import ImageInput
from inference.predictor import Prediction

Answered = tuple[ImageInput, Prediction]


def certainty(source: ImageInput, prediction: Prediction) -> tuple[bool, float]:
    """Small for what is to be looked at first: wrong ones by the probability of their label, then those that are right or
    of unknown label by their confidence, which is the same thing where the label is known.
    """
    shares = prediction.probabilities
    label = source.label if source.label in shares else prediction.predicted
    return label == prediction.predicted, shares[label]


class LeastCertain:
    """Keeps the most doubtful of any number of answers."""

    def __init__(self, most: int):
        if most < 1:
            raise ValueError(f"explain_most={most}: use 1 or more")
        self.most = most
        self.n = 0  # images that could be read
        self._kept: list[tuple] = []  # a heap, the least doubtful first
        self._count = itertools.count()

    def add(self, source: ImageInput, prediction: Prediction) -> None:
        if prediction.error:
            return
        self.n += 1
        right, p = certainty(source, prediction)
        entry = ((-right, -p), -next(self._count), source, prediction)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def sorted(self) -> list[Answered]:
        """The most doubtful first; of equals the one that came first."""
        return [entry[2:] for entry in sorted(self._kept, reverse=True)]
