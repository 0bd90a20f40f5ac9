"""What the study's published test accuracies can tell: eight backbones on 109 images."""

from itertools import combinations

import pytest

from evaluation.paired_tests import holm, mcnemar

IMAGES = 109
CORRECT = {
    "ResNet18": 101,
    "ResNet50": 101,
    "ShuffleNet": 91,
    "EfficientNet": 99,
    "MobileNet": 100,
    "VGG16": 100,
    "VGG19": 100,
    "DenseNet121": 101,
}


def smallest_p_values(correct: dict[str, int]) -> dict[tuple[str, str], float]:
    """The least p-value that each pair's counts allow: all errors of the better one are errors of the other."""
    return {(a, b): mcnemar(abs(correct[a] - correct[b]), 0) for a, b in combinations(correct, 2)}


def independent_p_values(correct: dict[str, int]) -> dict[tuple[str, str], float]:
    """The p-values of pairs whose errors fall on images by chance, at the expected counts."""
    return {
        (a, b): mcnemar(
            round(correct[a] * (IMAGES - correct[b]) / IMAGES),
            round(correct[b] * (IMAGES - correct[a]) / IMAGES),
        )
        for a, b in combinations(correct, 2)
    }


def test_the_smallest_p_value_is_that_of_contained_errors():
    for a, b in combinations(CORRECT, 2):
        more, fewer = sorted((CORRECT[a], CORRECT[b]), reverse=True)
        every = [mcnemar(more - fewer + shared, shared) for shared in range(IMAGES - more + 1)]
        assert min(every) == smallest_p_values(CORRECT)[a, b]


def test_only_the_pairs_with_shufflenet_can_be_distinguished_at_all():
    smallest = smallest_p_values(CORRECT)
    assert len(smallest) == 28
    below = {pair for pair, p in smallest.items() if p < 0.05}
    assert below == {pair for pair in smallest if "ShuffleNet" in pair} and len(below) == 7


def test_after_holm_s_correction_no_pair_can():
    smallest = smallest_p_values(CORRECT)
    assert min(smallest.values()) == pytest.approx(2 * 0.5**10)
    assert min(holm(list(smallest.values()))) == pytest.approx(28 * 2 * 0.5**10)  # 0.0547
    assert 28 * 2 * 0.5**10 > 0.05


def test_with_independent_errors_no_pair_is_distinguished_after_holm_s_correction():
    p_values = independent_p_values(CORRECT)
    assert min(holm(list(p_values.values()))) > 0.05
    assert min(p_values.values()) > 0.05
