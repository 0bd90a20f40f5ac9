import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from common.errors import UserError
from common.run_record import ClassScores
from evaluation import scores
from evaluation.intervals import proportion
from evaluation.scores import (
    auroc,
    average_precision,
    balanced_accuracy,
    count_confusion,
    estimate_metrics,
    macro_auroc,
    macro_f1,
    per_class,
)


def made_up(n, classes, digits=None, seed=0):
    """Labels and probabilities that follow them somewhat; `digits` makes ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities if digits is None else probabilities.round(digits)


def confusion_of(labels, predicted, classes):
    return np.array([[((labels == t) & (predicted == p)).sum() for p in range(classes)] for t in range(classes)])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_of_the_confusion_matrix_equal_torchmetrics(classes):
    labels, probabilities = made_up(200, classes)
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    confusion = count_confusion(labels, probabilities.argmax(axis=1), classes)
    assert (confusion == multiclass_confusion_matrix(*tensors, classes).numpy()).all()
    assert balanced_accuracy(confusion) == pytest.approx(multiclass_accuracy(*tensors, classes).item(), abs=1e-6)
    assert macro_f1(confusion) == pytest.approx(multiclass_f1_score(*tensors, classes).item(), abs=1e-6)
    twice = np.stack([confusion, np.eye(classes, dtype=int)])
    assert balanced_accuracy(twice)[1] == macro_f1(twice)[1] == 1 and macro_f1(twice)[0] == macro_f1(confusion)


@pytest.mark.parametrize("digits", [None, 1])
def test_auroc_and_average_precision_equal_torchmetrics(digits):
    labels, probabilities = made_up(300, 2, digits)
    tensors = torch.tensor(probabilities[:, 1]), torch.tensor(labels)
    assert auroc(labels, probabilities[:, 1]) == pytest.approx(binary_auroc(*tensors).item(), abs=1e-6)
    theirs = binary_average_precision(*tensors).item()
    assert average_precision(labels, probabilities[:, 1]) == pytest.approx(theirs, abs=1e-6)
    assert macro_auroc(labels, probabilities) == pytest.approx(auroc(labels, probabilities[:, 1]), abs=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
def test_macro_auroc_equals_torchmetrics(digits):
    labels, probabilities = made_up(200, 5, digits)
    theirs = np.mean(
        [binary_auroc(torch.tensor(probabilities[:, k]), torch.tensor(labels == k).int()) for k in range(5)]
    )
    assert macro_auroc(labels, probabilities) == pytest.approx(theirs, abs=1e-6)
    if digits is None:  # with ties its rows no longer sum to one, and torchmetrics makes probabilities of them again
        theirs = multiclass_auroc(torch.tensor(probabilities), torch.tensor(labels), 5).item()
        assert macro_auroc(labels, probabilities) == pytest.approx(theirs, abs=1e-6)


def test_auroc_by_hand():
    assert auroc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])) == (1 + 0.5 + 1 + 1) / 4
    assert average_precision(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])) == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_of_many_images_are_near_those_of_a_plain_bootstrap(classes):
    labels, probabilities = made_up(150, classes, digits=2)
    generator, drawn = np.random.default_rng(5), {"balanced_accuracy": [], "f1": [], "auroc": []}
    if classes == 2:
        drawn["average_precision"] = []
    for _ in range(1000):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(classes)]
        )
        confusion = confusion_of(labels[rows], probabilities[rows].argmax(axis=1), classes)
        drawn["balanced_accuracy"].append(balanced_accuracy(confusion))
        drawn["f1"].append(macro_f1(confusion))
        drawn["auroc"].append(macro_auroc(labels[rows], probabilities[rows]))
        if classes == 2:
            drawn["average_precision"].append(average_precision(labels[rows], probabilities[rows, 1]))
    found = estimate_metrics(labels, probabilities)
    assert list(found) == list(drawn)
    for name, values in drawn.items():
        assert found[name].interval == pytest.approx(
            np.quantile(values, [0.025, 0.975]), abs=0.015
        )  # widths are 0.10 to 0.16
    narrow = estimate_metrics(labels, probabilities, confidence=0.5)["auroc"].interval
    wide = found["auroc"].interval
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_is_seeded_and_bounded(monkeypatch):
    labels, probabilities = made_up(500, 2)
    assert estimate_metrics(labels, probabilities) == estimate_metrics(labels, probabilities)
    assert estimate_metrics(labels, probabilities) != estimate_metrics(labels, probabilities, seed=1)
    drawn = []
    draw = scores.draw
    monkeypatch.setattr(
        scores, "draw", lambda g, resamples, counts: drawn.append(resamples) or draw(g, resamples, counts)
    )
    estimate_metrics(labels, probabilities)
    assert sum(drawn) == 2000
    for limit, expected in ((150_000, 300), (10, 200)):
        drawn.clear()
        monkeypatch.setattr(scores, "DRAWS", limit)
        monkeypatch.setattr(scores, "CELLS", 64 * 500)
        estimate_metrics(labels, probabilities)
        assert sum(drawn) == expected and max(drawn) == 64


def test_per_class_by_hand():
    a, b, c = per_class(np.array([[8, 2, 0], [1, 9, 0], [0, 3, 0]]), ["a", "b", "c"])
    assert a == ClassScores(name="a", n=10, recall=proportion(8, 10), precision=proportion(8, 9), f1=16 / 19)
    assert b.f1 == 18 / 24 and c == ClassScores(name="c", n=3, recall=proportion(0, 3), precision=None, f1=0)
    assert per_class(np.array([[2, 0], [0, 0]]), ["a", "b"])[1] == ClassScores(name="b", n=0)


def test_classes_without_images_do_not_count():
    confusion = np.array([[3, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert balanced_accuracy(confusion) == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert macro_f1(confusion) == pytest.approx((6 / 8 + 2 / 5 + 0) / 3)  # the third was predicted
    assert macro_f1(confusion[:, [0, 1, 1]] * [1, 1, 0]) == pytest.approx((6 / 8 + 2 / 4) / 2)
    labels, probabilities = made_up(60, 2)
    third = np.pad(probabilities, ((0, 0), (0, 1)))
    assert macro_auroc(labels, third) == pytest.approx(macro_auroc(labels, probabilities))
    assert list(estimate_metrics(labels, third)) == ["balanced_accuracy", "f1", "auroc"]
    assert list(estimate_metrics(np.zeros(60, int), probabilities)) == ["balanced_accuracy", "f1"]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: auroc(np.array([1, 1]), np.array([0.1, 0.2])), "2 positive of 2"),
    (lambda: auroc(np.array([1, 0, 1]), np.array([0.1, 0.2])), "one an image"),
    (lambda: macro_auroc(np.array([0, 2]), np.ones((2, 2))), "labels lie in 0 to 1"),
    (lambda: macro_auroc(np.array([0, 1]), np.ones(2)), r"\(n, classes\)"),
    (lambda: macro_auroc(np.array([1, 1]), np.full((2, 3), 1 / 3)), "2 positive of 2"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert not isinstance(caught.value, UserError)  # a defect of the caller, which keeps its traceback
