import numpy as np

from inference.explain.ranking import LeastCertain, certainty
from inference.image_inputs import ImageInput
from inference.predictor import Prediction


def predicted(index, shares, label="") -> tuple[ImageInput, Prediction]:
    named = dict(zip("abc", shares, strict=True))
    prediction = Prediction(str(index), "", max(named, key=named.get), named)
    return ImageInput(str(index), None, label), prediction


def test_wrong_ones_first_then_the_least_confident():
    predictions = [
        predicted(0, (0.9, 0.05, 0.05), "a"),  # sure and right
        predicted(1, (0.9, 0.04, 0.06), "b"),  # sure and wrong
        predicted(2, (0.4, 0.35, 0.25), "b"),  # unsure and wrong
        predicted(3, (0.4, 0.3, 0.3), "a"),  # unsure and right
        predicted(4, (0.3, 0.3, 0.4), ""),  # not labeled
        predicted(5, (0.5, 0.3, 0.2), "wasp"),  # labeled with what the network does not know
    ]
    assert [certainty(*each) for each in predictions] == [
        (True, 0.9), (False, 0.04), (False, 0.35), (True, 0.4), (True, 0.4), (True, 0.5),
    ]  # fmt: skip
    for most in (6, 4, 1):
        kept = LeastCertain(most)
        for each in predictions:
            kept.add(*each)
        kept.add(ImageInput("gone", None), Prediction("gone", error="no image"))
        assert [image_input.path for image_input, _ in kept.sorted()] == ["1", "2", "3", "4", "5", "0"][
            :most
        ] and kept.n == 6


def test_it_keeps_what_sorting_all_would_keep():
    generator = np.random.default_rng(0)
    predictions = [
        predicted(i, generator.dirichlet((1, 1, 1)).round(1), generator.choice(["a", "b", "c", ""])) for i in range(300)
    ]
    kept = LeastCertain(17)
    for each in predictions:
        kept.add(*each)
    wanted = sorted(predictions, key=lambda each: certainty(*each))[:17]  # stable: of equals the first
    assert [p.path for p, _ in kept.sorted()] == [p.path for p, _ in wanted]
