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

from evaluation import scores
from evaluation.intervals import wilson
from evaluation.scores import (
    auroc,
    average_precision,
    balanced_accuracy,
    bootstrap_intervals,
    macro_auroc,
    macro_f1,
    per_class,
)
from evaluation.thresholds import CRITERIA, at_threshold, choose_threshold


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
def test_figures_of_the_confusion_matrix_equal_torchmetrics(classes):
    labels, probabilities = made_up(200, classes)
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    confusion = multiclass_confusion_matrix(*tensors, classes).numpy()
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
    assert macro_auroc(labels, probabilities) == auroc(labels, probabilities[:, 1])


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
def test_bootstrap_equals_a_plain_loop(classes):
    labels, probabilities = made_up(150, classes, digits=2)
    generator, drawn = np.random.default_rng(5), {"balanced_accuracy": [], "f1": [], "auroc": []}
    if classes == 2:
        drawn["average_precision"] = []
    for _ in range(2000):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(classes)]
        )
        confusion = confusion_of(labels[rows], probabilities[rows].argmax(axis=1), classes)
        drawn["balanced_accuracy"].append(balanced_accuracy(confusion))
        drawn["f1"].append(macro_f1(confusion))
        drawn["auroc"].append(macro_auroc(labels[rows], probabilities[rows]))
        if classes == 2:
            drawn["average_precision"].append(average_precision(labels[rows], probabilities[rows, 1]))
    found = bootstrap_intervals(labels, probabilities)
    assert list(found) == list(drawn)
    for name, values in drawn.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)  # widths are 0.10 to 0.16
    narrow = bootstrap_intervals(labels, probabilities, confidence=0.5)["auroc"]
    assert found["auroc"].low < narrow.low < narrow.high < found["auroc"].high


def test_bootstrap_is_seeded_and_bounded(monkeypatch):
    labels, probabilities = made_up(500, 2)
    assert bootstrap_intervals(labels, probabilities) == bootstrap_intervals(labels, probabilities)
    assert bootstrap_intervals(labels, probabilities) != bootstrap_intervals(labels, probabilities, seed=1)
    drawn = []
    draw = scores._draw
    monkeypatch.setattr(
        scores, "_draw", lambda g, resamples, counts: drawn.append(resamples) or draw(g, resamples, counts)
    )
    bootstrap_intervals(labels, probabilities)
    assert sum(drawn) == 2000
    for limit, expected in ((150_000, 300), (10, 200)):
        drawn.clear()
        monkeypatch.setattr(scores, "DRAWS", limit)
        monkeypatch.setattr(scores, "CELLS", 64 * 500)
        bootstrap_intervals(labels, probabilities)
        assert sum(drawn) == expected and max(drawn) == 64


def test_at_threshold_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    found = at_threshold(labels, np.array([0.9, 0.5, 0.2, 0.7, 0.4, 0.3, 0.1]), 0.5)
    for name, correct, n in (("accuracy", 5, 7), ("sensitivity", 2, 3), ("specificity", 3, 4), ("precision", 2, 3)):
        low, high = wilson(correct, n)
        assert found[name] == {"value": correct / n, "low": low, "high": high, "correct": correct, "n": n}
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2) and found["f1"] == pytest.approx(2 / 3)
    assert at_threshold(labels, np.full(7, 0.2), 0.5)["precision"] is None


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_best_of_all(criterion, seed):
    labels, probabilities = made_up(25, 2, digits=1, seed=seed)
    p = probabilities[:, 1]
    steps = np.unique(p)
    candidates = [0.0, *((steps[:-1] + steps[1:]) / 2), np.nextafter(1.0, 2.0)]

    def value(threshold):
        called = p >= threshold
        tp, fp = (called & (labels == 1)).sum(), (called & (labels == 0)).sum()
        fn, tn = (~called & (labels == 1)).sum(), (~called & (labels == 0)).sum()
        return {
            "accuracy": (tp + tn) / 25,
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "cost": -(3 * fn + fp),
        }[criterion]

    best = max(value(c) for c in candidates)
    nearest = min(abs(c - 0.5) for c in candidates if value(c) == pytest.approx(best, abs=1e-12))
    threshold = choose_threshold(labels, p, criterion, false_negative_cost=3)
    assert value(threshold) == pytest.approx(best, abs=1e-12) and abs(threshold - 0.5) == pytest.approx(nearest)


def test_the_threshold_follows_the_cost():
    labels, scores_ = np.array([0, 1, 0, 1]), np.array([0.2, 0.3, 0.6, 0.8])
    assert (
        choose_threshold(labels, scores_, "cost", 10) == 0.25 and choose_threshold(labels, scores_, "cost", 0.5) == 0.7
    )
    certain = np.array([0.0, 1.0, 0.0, 1.0])
    assert (
        choose_threshold(labels, 1 - certain, "accuracy") == 0.0
    )  # as good as none; and both are equally far from 0.5
    assert choose_threshold(labels, certain, "f1") == 0.5
    near = np.array([0.5, np.nextafter(0.5, 1)])  # no number lies between them
    assert choose_threshold(np.array([0, 1]), near, "accuracy") == near[1]


def test_per_class_by_hand():
    lines = per_class(np.array([[8, 2, 0], [1, 9, 0], [0, 3, 0]]), ["a", "b", "c"])
    assert [line["class"] for line in lines] == ["a", "b", "c"] and [line["n"] for line in lines] == [10, 10, 3]
    assert (
        lines[0]["recall"]["value"] == 0.8 and lines[0]["precision"]["correct"] == 8 and lines[0]["precision"]["n"] == 9
    )
    assert lines[1]["f1"] == 18 / 24 and lines[2]["precision"] is None and lines[2]["f1"] == 0
    assert per_class(np.array([[2, 0], [0, 0]]), ["a", "b"])[1] == {
        "class": "b", "n": 0, "recall": None, "precision": None, "f1": None,
    }  # fmt: skip


@pytest.mark.parametrize(("call", "message"), [
    (lambda: auroc(np.array([1, 1]), np.array([0.1, 0.2])), "2 positive of 2"),
    (lambda: auroc(np.array([1, 0, 1]), np.array([0.1, 0.2])), "one an image"),
    (lambda: macro_auroc(np.array([0, 2]), np.ones((2, 2))), "labels lie in 0 to 1"),
    (lambda: macro_auroc(np.array([0, 1]), np.ones(2)), r"\(n, classes\)"),
    (lambda: bootstrap_intervals(np.array([0, 0, 1]), np.full((3, 3), 1 / 3)), "class 2 has no image"),
    (lambda: choose_threshold(np.array([0, 1]), np.array([0.1, 0.2]), "auc"), "criterion='auc'; use accuracy"),
    (lambda: choose_threshold(np.array([0, 1]), np.array([0.1, 0.2]), "cost", 0), "false_negative_cost=0"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
