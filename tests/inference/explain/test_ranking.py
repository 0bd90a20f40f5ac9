import numpy as np
import pytest

from inference.explain.ranking import LeastCertain, certainty
from inference.image_inputs import ImageInput
from inference.predictor import Prediction


def answer(index, shares, label="") -> tuple[ImageInput, Prediction]:
    named = dict(zip("abc", shares, strict=True))
    predicted = max(named, key=named.get)
    return ImageInput(str(index), None, label), Prediction(str(index), "", predicted, named)


def test_wrong_ones_first_then_the_least_confident():
    answers = [
        answer(0, (0.9, 0.05, 0.05), "a"),  # sure and right
        answer(1, (0.9, 0.04, 0.06), "b"),  # sure and wrong
        answer(2, (0.4, 0.35, 0.25), "b"),  # unsure and wrong
        answer(3, (0.4, 0.3, 0.3), "a"),  # unsure and right
        answer(4, (0.3, 0.3, 0.4), ""),  # not labeled
        answer(5, (0.5, 0.3, 0.2), "wasp"),  # labeled with what the network does not know
    ]
    assert [certainty(*each) for each in answers] == [
        (True, 0.9), (False, 0.04), (False, 0.35), (True, 0.4), (True, 0.4), (True, 0.5),
    ]  # fmt: skip
    for most in (6, 4, 1):
        kept = LeastCertain(most)
        for each in answers:
            kept.add(*each)
        kept.add(ImageInput("gone", None), Prediction("gone", error="no image"))
        assert [source.path for source, _ in kept.sorted()] == ["1", "2", "3", "4", "5", "0"][:most] and kept.n == 6


def test_it_keeps_what_sorting_all_would_keep():
    generator = np.random.default_rng(0)
    answers = [
        answer(i, generator.dirichlet((1, 1, 1)).round(1), generator.choice(["a", "b", "c", ""])) for i in range(300)
    ]
    kept = LeastCertain(17)
    for each in answers:
        kept.add(*each)
    wanted = sorted(answers, key=lambda each: certainty(*each))[:17]  # stable: of equals the first
    assert [p.path for p, _ in kept.sorted()] == [p.path for p, _ in wanted]


def test_none_is_too_few():
    with pytest.raises(ValueError, match="explain_most=0: use 1 or more"):
        LeastCertain(0)
