"""The metrics of a split in one go, and the decision: fitted on validation images, measured on others, described."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from common.errors import UserError
from common.run_record import Baseline, Decision
from common.text import format_interval
from evaluation.calibration import brier
from evaluation.decision import DecisionRules, at_threshold, choose_threshold, measure
from evaluation.describe import (
    compare_to_guessing,
    describe_accuracy,
    describe_calibration,
    describe_guessing,
    describe_metrics,
    describe_promise,
)
from evaluation.estimates import further_metric
from evaluation.intervals import design_effect, format_accuracy, proportion, wilson
from evaluation.scores import per_class

RULES = {
    "positive_class": None, "threshold_criterion": "balanced_accuracy", "false_negative_cost": 1, "target_accuracy": 0.95,
    "delta": 0.1,
}  # fmt: skip
TWO = ["cat", "dog"]
FITTED = Decision(temperature=1.2, target_accuracy=0.95, delta=0.1, fitted_on=444, positive_class="dog")


def rules(**changes):
    return DecisionRules(**RULES | changes)


def made_up(n=400, classes=2, sharpness=3.0, seed=0):
    """Return labels, and probabilities that are overconfident by the factor `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(classes, p=line) for line in true])
    sharp = np.exp(sharpness * logits)
    return labels, sharp / sharp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_equal_torchmetrics(classes):
    labels, probabilities = made_up(classes=classes)
    found = measure(labels, probabilities, [f"c{k}" for k in range(classes)], None)
    options = {"num_classes": classes}
    theirs = {
        "balanced_accuracy": MulticlassAccuracy(average="macro", **options),
        "f1": MulticlassF1Score(average="macro", **options),
        "auroc": MulticlassAUROC(average="macro", **options),
        "ece": MulticlassCalibrationError(n_bins=15, norm="l1", **options),
    }
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    for name, metric in theirs.items():
        assert getattr(found, name) == pytest.approx(metric(*tensors).item(), abs=1e-6), name
        assert name == "ece" or found.intervals[name][0] < getattr(found, name) < found.intervals[name][1]
    confusion = MulticlassConfusionMatrix(**options)(*tensors).numpy()
    assert found.confusion == confusion.tolist()
    assert found.accuracy == proportion(int(confusion.trace()), 400)
    assert found.per_class == per_class(confusion, [f"c{k}" for k in range(classes)])
    assert found.brier == brier(labels, probabilities)
    assert (found.loss, found.calibrated, found.selective, found.test_evaluations) == (None, None, None, None)


def test_the_temperature_undoes_overconfidence():
    labels, probabilities = made_up(4000)
    decision = rules().fit(labels, probabilities, TWO)
    assert decision.temperature == pytest.approx(3.0, rel=0.1)
    found = measure(labels, probabilities, TWO, decision)
    assert found.calibrated.ece < 0.03 < 0.1 < found.ece and found.calibrated.brier < found.brier

    def loss(temperature):
        q = probabilities ** (1 / temperature)
        q = q / q.sum(axis=1, keepdims=True)
        return -np.log(q[np.arange(len(labels)), labels]).mean()

    best = minimize_scalar(loss, bounds=(1, 6), method="bounded")
    assert found.calibrated.loss == pytest.approx(best.fun, abs=1e-6)


@pytest.mark.parametrize("positive", TWO)
def test_the_positive_class_is_the_named_one(positive):
    labels, probabilities = made_up()
    decision = rules(positive_class=positive).fit(labels, probabilities, TWO)
    binary = measure(labels, probabilities, TWO, decision).binary
    index = TWO.index(positive)
    predicted = probabilities[:, index] >= decision.threshold
    assert binary.positive_class == positive
    assert binary.at_half == at_threshold(labels == index, probabilities[:, index], 0.5)
    assert binary.at_threshold.sensitivity.value == predicted[labels == index].mean()
    assert binary.at_threshold.specificity.value == (~predicted)[labels != index].mean()


def test_only_average_precision_depends_on_which_class_is_positive():
    labels, probabilities = made_up()
    found = [
        measure(labels, probabilities, TWO, rules(positive_class=name).fit(labels, probabilities, TWO)) for name in TWO
    ]
    precisions = [each.binary.average_precision for each in found]
    assert precisions[0] != precisions[1]
    for each, precision in zip(found, precisions, strict=True):
        low, high = each.intervals["average_precision"]
        assert low < precision < high
    assert all(getattr(found[0], name) == getattr(found[1], name) for name in ("auroc", "f1", "brier", "per_class"))


@pytest.mark.parametrize("positive", TWO)
def test_images_in_groups_count_as_their_design_effect_on_these_images_says(positive):
    """Each share has Wilson's interval of n / effect images; the effect is that on the images which the share is of."""
    generator, groups = np.random.default_rng(3), np.repeat(np.arange(80), [2, 3, 4, 11] * 20)
    labels = generator.integers(2, size=80)[groups] ^ (generator.random(400) < 0.1)
    score = np.clip(0.5 + (labels - 0.5) * 0.4 + 0.3 * generator.normal(size=80)[groups], 0.01, 0.99)
    probabilities = np.stack([1 - score, score], axis=1)
    decision = rules(positive_class=positive, target_accuracy=0.7).fit(labels, probabilities, TWO, groups=groups)
    right, index = (score >= 0.5) == labels, TWO.index(positive)

    def share(right, some):
        low, high = wilson(
            *(each / design_effect(right[some], groups[some]) for each in (right[some].sum(), some.sum()))
        )
        return pytest.approx((right[some].mean(), low, high))

    def numbers(found):
        return found.value, found.low, found.high

    assert decision.design_effect == design_effect(right, groups) > 1.5
    found = measure(labels, probabilities, TWO, decision, groups=groups)
    every = np.ones(400, bool)
    assert numbers(found.accuracy) == share(right, every)
    for label, scores in enumerate(found.per_class):
        assert numbers(scores.recall) == share(right, labels == label)
        assert numbers(scores.precision) == share(right, (score >= 0.5) == label)
    called = probabilities[:, index] >= decision.threshold
    positives, at = labels == index, found.binary.at_threshold
    assert numbers(at.accuracy) == share(called == positives, every)
    assert numbers(at.sensitivity) == share(called == positives, positives)
    assert numbers(at.specificity) == share(called == positives, ~positives)
    assert numbers(at.precision) == share(called == positives, called)
    sure = probabilities.max(axis=1) >= decision.confidence
    assert numbers(found.selective.accuracy) == share(right, sure) and 0 < sure.mean() < 1
    plain = measure(labels, probabilities, TWO, None)
    assert plain.binary.positive_class == "dog" and plain.binary.at_half.precision == proportion(
        int((right & (score >= 0.5)).sum()), int((score >= 0.5).sum())
    )


def test_a_dear_miss_lowers_the_threshold():
    labels, probabilities = made_up(sharpness=1)
    cheap, dear = (
        rules(threshold_criterion="cost", false_negative_cost=cost).fit(labels, probabilities, TWO) for cost in (1, 20)
    )
    assert dear.threshold < cheap.threshold and dear.false_negative_cost == 20


def test_more_classes_have_no_threshold():
    labels, probabilities = made_up(classes=3)
    decision = rules().fit(labels, probabilities, ["a", "b", "c"])
    assert decision == Decision(
        temperature=decision.temperature, target_accuracy=0.95, delta=0.1, confidence=decision.confidence, fitted_on=400
    )
    found = measure(labels, probabilities, ["a", "b", "c"], decision)
    assert found.binary is None and len(found.per_class) == 3 and "average_precision" not in found.intervals
    lines = describe_metrics(found, decision)
    assert f"AUROC {found.auroc:.3f}" in lines[0] and not any("threshold" in line for line in lines)


def test_selective_prediction_is_measured_at_the_confidence_chosen_on_val():
    labels, probabilities = made_up(3000, sharpness=1)
    decision = rules(target_accuracy=0.9).fit(labels[:1000], probabilities[:1000], TWO)
    selective = measure(labels[1000:], probabilities[1000:], TWO, decision).selective
    sure = probabilities[1000:].max(axis=1) >= decision.confidence
    right = probabilities[1000:].argmax(axis=1) == labels[1000:]
    assert selective.coverage == sure.mean() and selective.accuracy.value == right[sure].mean()
    assert selective.accuracy.value == pytest.approx(0.9, abs=0.04)


def test_a_class_without_images_leaves_its_metrics_out():
    labels, probabilities = np.zeros(50, int), made_up(50)[1]
    decision = rules().fit(labels, probabilities, TWO)
    found = measure(labels, probabilities, TWO, decision)
    assert (decision.threshold, found.auroc, found.binary) == (None, None, None)
    assert found.balanced_accuracy == found.accuracy.value and set(found.intervals) == {"balanced_accuracy", "f1"}
    assert len(describe_metrics(found, decision)) >= 2
    three = measure(made_up(50)[0], made_up(50, classes=3)[1], ["a", "b", "c"], None)
    assert three.per_class[2].recall is None and 0 < three.auroc < 1


@pytest.mark.parametrize("seed", range(40))
def test_what_is_all_right_and_sure_is_not_called_miscalibrated(seed):
    """With so few images 95% of the draws have no error either, and the same ECE but for its rounding."""
    generator = np.random.default_rng(seed)
    confidence = 1 - 0.002 * generator.random(generator.integers(5, 20))
    found = measure(np.zeros(len(confidence), int), np.stack([confidence, 1 - confidence], axis=1), TWO, None)
    assert found.ece == pytest.approx(found.ece_by_chance.p95)
    assert "no miscalibration can be seen" in describe_calibration(found, None)


def test_a_single_image_is_one():
    labels, probabilities = np.array([1]), np.array([[0.7, 0.3]])
    decision = rules().fit(labels, probabilities, TWO)
    shown = "\n".join(describe_metrics(measure(labels, probabilities, TWO, decision), decision))
    assert "with 1 image): " in shown and "with 1 validation image (at least 45" in shown and "1 images" not in shown


def test_what_the_screen_shows():
    labels, probabilities = made_up(sharpness=1)
    decision = rules(target_accuracy=0.8).fit(labels, probabilities, TWO)
    found = measure(labels, probabilities, TWO, decision)
    at, low_high = found.binary.at_threshold, lambda share: f"({format_interval(share.low, share.high)})"
    scores, recall, calibration, threshold, selective = describe_metrics(found, decision, "test")
    assert scores.startswith(f"balanced accuracy {found.balanced_accuracy:.3f} (") and "macro F1" in scores
    cat, dog = (each.recall for each in found.per_class)
    assert recall == (
        f"recall: cat {cat.value:.2f} ({format_interval(cat.low, cat.high, 2)}, n = {cat.n}), "
        f"dog {dog.value:.2f} ({format_interval(dog.low, dog.high, 2)}, n = {dog.n})"
    )
    chance = found.ece_by_chance
    assert found.ece <= chance.p95  # the labels were drawn from these very probabilities
    assert calibration == (
        f"calibration error (ECE): {found.ece:.3f} (a perfectly calibrated network shows {chance.mean:.3f}, up to "
        f"{chance.p95:.3f}, with 400 images): no miscalibration can be seen; "
        f"with temperature {decision.temperature:.2f}: {found.calibrated.ece:.3f}"
    )
    assert threshold == (
        f"threshold for 'dog': {decision.threshold:.3f} (maximizes balanced accuracy on val): "
        f"sensitivity {at.sensitivity.value:.3f} {low_high(at.sensitivity)}, "
        f"specificity {at.specificity.value:.3f} {low_high(at.specificity)}"
    )
    assert selective == (
        "selective prediction: accuracy 0.8 with 90% confidence on images like these: confidence >= "
        f"{math.ceil(1000 * decision.confidence) / 1000:.3f}, decides {found.selective.coverage:.0%} of test: "
        f"{found.selective.accuracy.value:.3f} {low_high(found.selective.accuracy)}"
    )


@pytest.mark.thorough
def test_the_interval_of_one_s_own_metric_has_a_caveat_where_it_covers_too_little():
    """Of Cohen's kappa, with the recalls of both classes known."""

    def cohen(y, p):
        positive, p = y.mean(), (p[:, 1] > 0.5).astype(int)
        chance = positive * p.mean() + (1 - positive) * (1 - p.mean())
        return float(((p == y).mean() - chance) / (1 - chance))

    labels, recall = np.repeat([0, 1], [90, 10]), 0.9
    shares = np.bincount(labels) / 100
    by_chance = shares @ (shares * recall + shares[::-1] * (1 - recall))
    truth = (recall - by_chance) / (1 - by_chance)
    generator, covered = np.random.default_rng(1), {True: [], False: []}
    for _ in range(60):
        right = generator.random(100) < recall
        probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
        kappa = further_metric(cohen, labels, probabilities)
        if kappa.interval is not None:
            lines = describe_metrics(measure(labels, probabilities, TWO, None, {"kappa": kappa}), None)
            caveat = any("the 95% interval of kappa can cover" in line for line in lines)
            assert caveat == any(right[labels == label].all() for label in (0, 1))
            covered[caveat].append(kappa.interval.low <= truth <= kappa.interval.high)
    assert np.mean(covered[True]) < 0.93 <= np.mean(covered[False])


def test_overconfidence_is_called_miscalibration():
    labels, probabilities = made_up(sharpness=3)
    assert ": miscalibrated; with temp" in describe_metrics(measure(labels, probabilities, TWO, FITTED), FITTED)[2]


@pytest.mark.parametrize(("change", "words"), [
    ({"confidence": 0.912}, "accuracy 0.95 with 90% confidence on images like these: confidence >= 0.912"),
    ({"confidence": 0.9123}, "images like these: confidence >= 0.913"),  # 0.912 would let in what is not promised
    ({"fitted_on": 30}, "accuracy 0.95 cannot be promised with 30 validation images (at least 45 without an error are needed)"),
    ({}, "accuracy 0.95 cannot be promised with these 444 validation images (too many errors among the most confident ones)"),
    ({"fitted_on": 80, "design_effect": 2.0}, "with 80 validation images, several of one group (at least 90 without an error"),
    ({"fitted_on": 90, "design_effect": 2.0}, "several of one group (too many errors, or too few groups, among the most"),
    ({"target_accuracy": 1.0}, "accuracy 1 cannot be promised by any number of images"),
    ({"delta": None, "confidence": 0.851}, "confidence >= 0.851 reached accuracy 0.95 on validation, which promises nothing"),
    ({"delta": None}, "no confidence reached accuracy 0.95 on validation, which promises nothing for other images"),
])  # fmt: skip
def test_what_is_promised_in_words(change, words):
    assert words in describe_promise(replace(FITTED, **change))


def test_digits_of_the_screen_hide_neither_an_error_nor_an_interval():
    """Of 9,800 images one is wrong, and one is below the confidence; of another class 97 of 100 are right."""
    labels = np.repeat([0, 1], [9_800, 100])
    p = np.where(labels == 0, 0.99999, 0.00001)
    p[0], p[-3:] = 0.00001, 0.99999
    p[5] = 0.6
    decision = replace(FITTED, confidence=0.99999, threshold=0.5, threshold_criterion="accuracy", positive_class="cat")
    found = measure(labels, np.stack([p, 1 - p], axis=1), TWO, decision)
    text = "\n".join(describe_metrics(found, decision, "test"))
    low, high = binomtest(9_799, 9_800).proportion_ci(method="wilson")
    assert f"recall: cat 0.9999 ({format_interval(low, high, 4)}, n = 9,800), dog 0.97 (0.91 to 0.99, n = 100)" in text
    assert f"sensitivity 0.9999 ({format_interval(low, high, 4)}), specificity 0.970 (0.915 to 0.990)" in text
    assert "confidence >= 0.99999, decides 99.99% of test: " in text


def test_without_a_promise_every_image_is_left_undecided():
    labels, probabilities = made_up(40, sharpness=1)
    decision = rules().fit(labels, probabilities, TWO)
    assert decision.confidence is None
    found = measure(labels, probabilities, TWO, decision)
    line = next(line for line in describe_metrics(found, decision) if line.startswith("selective"))
    assert line.endswith("(at least 45 without an error are needed), so predict.py abstains from every image")


def test_of_many_classes_the_screen_shows_the_worst():
    names = [f"c{k}" for k in range(12)]
    labels = np.repeat(np.arange(12), 10)
    predicted = np.where(
        np.tile(np.arange(10), 12) < labels // 2 + 4, labels, (labels + 1) % 12
    )  # of class k, k//2 + 4 are right
    found = measure(labels, np.eye(12)[predicted] * 0.9 + 0.1 / 12, names, None)
    recall = describe_metrics(found, None)[1]
    assert recall.startswith("recall, the 5 worst of 12 classes: c0 0.40 (0.16 to 0.69, n = 10), c1 0.40")
    assert recall.count("n = 10") == 5 and "c4 0.60" in recall


def test_a_temperature_that_cannot_be_fitted_is_shown(caplog):
    labels, right = np.zeros(40, int), np.tile([0.75, 0.25], (40, 1))
    decision = rules().fit(labels, right, TWO)
    assert decision.temperature == 1 and "validation has no error" in caplog.text
    found = measure(labels, right, TWO, decision)
    assert (found.calibrated.ece, found.calibrated.brier) == pytest.approx((found.ece, found.brier), rel=1e-12)
    assert "; no temperature is fitted, because validation has no error" in describe_metrics(found, decision)[2]
    wrong = rules().fit(1 - labels, right, TWO)
    assert "the temperature is at a bound of its search, 20" in caplog.text
    assert "20.00, a bound of the search" in describe_metrics(measure(labels, right, TWO, wrong), wrong)[2]
    caplog.clear()
    rules().fit(np.where(np.arange(40) % 5, 0, 1), right, TWO)  # 8 of 40 are wrong, where 10 are expected
    assert "temperature" not in caplog.text


def test_logits_are_used_where_they_are_known():
    labels, probabilities = made_up(200)
    logits = np.log(probabilities) + 5.0
    by_logits = rules().fit(labels, np.round(probabilities, 1), TWO, logits)
    assert by_logits.temperature == pytest.approx(rules().fit(labels, probabilities, TWO).temperature)


@pytest.mark.parametrize(("correct", "counts", "worse"), [
    ((60, 90), (70, 30), True),  # always the first: 0.7; the network 0.69
    ((260, 290), (200, 100), False),  # 0.667 and 0.867
])  # fmt: skip
def test_a_network_that_is_no_better_than_guessing_is_called_so(correct, counts, worse):
    names, (n0, n1) = TWO, counts
    share = correct[0] / correct[1]
    labels = np.repeat([0, 1], counts)
    position = np.concatenate([np.arange(n0) / n0, np.arange(n1) / n1])
    predicted = np.where(position < share, labels, 1 - labels)  # the same recall in both classes
    found = measure(labels, np.eye(2)[predicted] * 0.8 + 0.1, names, None)
    assert found.baseline == Baseline("cat", n0 / (n0 + n1)) and found.no_better_than_guessing is worse
    assert describe_accuracy(found) == f"{format_accuracy(found.accuracy)}; always 'cat': {n0 / (n0 + n1):.4f}"
    shown = describe_guessing(found)
    assert (shown is not None) is worse
    if worse:
        assert shown.startswith("no better than guessing as far as 100 images can tell: ")
        assert f"yet it tells classes apart: balanced accuracy {found.balanced_accuracy:.3f} (" in shown
    older = replace(found, baseline=None)
    assert older.guessing == found.baseline and older.no_better_than_guessing is worse


@pytest.mark.parametrize(
    ("n", "classes", "right", "p_value"), [(16, 2, 12, 0.0384), (27, 3, 14, 0.0359), (24, 2, 18, 0.0113)]
)
def test_a_network_is_better_than_guessing_from_a_one_sided_level_of_0025_on(n, classes, right, p_value):
    """That of the lower end of a 95% interval, which lies above the share of each class in all three."""
    assert binomtest(right, n, 1 / classes, alternative="greater").pvalue == pytest.approx(p_value, abs=1e-4)
    labels = np.arange(n) % classes
    predicted = np.where(np.arange(n) < right, labels, (labels + 1) % classes)
    found = measure(labels, np.eye(classes)[predicted] * 0.8 + 0.05, list("abc")[:classes], None)
    assert found.accuracy.low > 1 / classes and not found.no_better_than_guessing
    assert (describe_guessing(found) is None) == (p_value < 0.025)


@pytest.mark.parametrize("classes", [4, 5, 8, 20])
def test_a_network_that_guesses_is_rarely_called_better_where_each_class_has_one_image(classes):
    """Summed exactly over how many of the images it has right, each with the share of the largest class."""
    labels = np.arange(classes)
    called_better = 0.0
    for right in range(classes + 1):
        predicted = np.where(labels < right, labels, (labels + 1) % classes)
        found = measure(labels, np.eye(classes)[predicted] * 0.8 + 0.1, [f"c{label}" for label in labels], None)
        assert found.accuracy.correct == right and found.guessing.share == pytest.approx(1 / classes)
        if describe_guessing(found) is None:
            called_better += binom.pmf(right, classes, 1 / classes)
            assert compare_to_guessing(found).startswith("clearly better")
        else:
            by_chance = (
                ""
                if found.no_better_than_guessing
                else f"; exact test: p = {binom.sf(right - 1, classes, 1 / classes):.3f}"
            )
            shown = f"not shown to be better than always answering 'c0' ({1 / classes:.3f}{by_chance})"
            assert compare_to_guessing(found) == shown
    assert 0 < called_better <= 0.025


def test_a_network_that_always_guesses_tells_no_classes_apart():
    labels = np.repeat([0, 1], [70, 30])
    found = measure(labels, np.tile([0.6, 0.4], (100, 1)), TWO, None)
    assert found.no_better_than_guessing and "apart" not in describe_guessing(found)
    without = replace(found, baseline=None, confusion=None, per_class=None)
    assert without.guessing is None and not without.no_better_than_guessing


def test_rules_recognize_their_decisions():
    labels, probabilities = made_up()
    decision = rules().fit(labels, probabilities, TWO)
    assert rules().matches(decision, TWO)
    for change in ({"threshold_criterion": "f1"}, {"positive_class": "cat"}, {"target_accuracy": 0.9}, {"delta": 0.05}):
        assert not rules(**change).matches(decision, TWO)
    assert not rules().matches(replace(decision, delta=None), TWO)  # of an older version: fitted again
    assert rules(false_negative_cost=3).matches(decision, TWO)  # matters only with the criterion cost
    three = rules(threshold_criterion="cost", false_negative_cost=3).fit(*made_up(classes=3), ["a", "b", "c"])
    assert three.false_negative_cost is None  # and only for two classes


@pytest.mark.parametrize(("change", "classes", "message"), [
    ({"positive_class": "fox"}, TWO, "decision.positive_class=fox: allowed are cat, dog"),
    ({"positive_class": "a"}, ["a", "b", "c"], "it needs two classes .there are 3."),
    ({"false_negative_cost": 0}, TWO, "decision.false_negative_cost=0"),
    ({"target_accuracy": 1.5}, TWO, "decision.target_accuracy=1.5"),
    ({"delta": 0}, TWO, "decision.delta=0: use a probability above 0 and below 1"),
    ({"delta": 1.0}, TWO, "decision.delta=1.0"),
    ({"delta": float("nan")}, TWO, "decision.delta=nan"),
])  # fmt: skip
def test_bad_rules_are_named(change, classes, message):
    with pytest.raises(UserError, match=message):
        rules(**change).check(classes)


def test_a_class_may_be_named_by_a_whole_number():
    rules(positive_class=1).check(["0", "1"])
    rules().check(["a", "b", "c"])  # without one any number of classes will do
    assert rules(positive_class=0).positive_class == "0"
    with pytest.raises(UserError, match="positive_class=7: allowed are 0, 1"):
        rules(positive_class=7).check(["0", "1"])


def test_at_threshold_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    found = at_threshold(labels, np.array([0.9, 0.5, 0.2, 0.7, 0.4, 0.3, 0.1]), 0.5)
    for name, correct, n in (("accuracy", 5, 7), ("sensitivity", 2, 3), ("specificity", 3, 4), ("precision", 2, 3)):
        assert getattr(found, name) == proportion(correct, n)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 3 / 4) / 2) and found.f1 == pytest.approx(2 / 3)
    assert at_threshold(labels, np.full(7, 0.2), 0.5).precision is None


@pytest.mark.parametrize("criterion", ["accuracy", "balanced_accuracy", "f1", "cost"])
@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_best_of_all(criterion, seed):
    labels, probabilities = made_up(25, seed=seed)
    p = probabilities[:, 1].round(1)
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
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.2, 0.3, 0.6, 0.8])
    assert [choose_threshold(labels, scores, "cost", cost) for cost in (10, 0.5)] == [0.25, 0.7]
    certain = np.array([0.0, 1.0, 0.0, 1.0])
    assert choose_threshold(labels, 1 - certain, "accuracy") == 0.0  # as good as above 1, and equally far from 0.5
    assert choose_threshold(labels, certain, "f1") == 0.5
    near = np.array([0.5, np.nextafter(0.5, 1)])  # there is no float between them
    assert choose_threshold(np.array([0, 1]), near, "accuracy") == near[1]


@pytest.mark.parametrize(
    ("change", "p", "called"),
    [
        ({}, [0.5] * 5, "dog"),
        ({"positive_class": "cat"}, [0.5] * 5, "cat"),
        ({"threshold_criterion": "accuracy"}, [0.9, 0.8, 0.7, 0.6, 0.5], "cat"),  # the higher, the more seldom a dog
        ({"threshold_criterion": "cost", "false_negative_cost": 9}, [0.9, 0.8, 0.7, 0.6, 0.5], "dog"),
        ({}, [0.1, 0.2, 0.3, 0.8, 0.9], None),
    ],
)
def test_a_threshold_that_divides_nothing_is_a_warning(caplog, change, p, called):
    p = np.array(p)
    decision = rules(**change).fit(np.array([0, 0, 0, 1, 1]), np.stack([1 - p, p], axis=1), TWO)
    above = np.array([1 - p, p])[TWO.index(decision.positive_class)] >= decision.threshold
    assert len(set(above)) == (1 if called else 2)
    words = re.findall("no threshold is better than calling every image '(.*)'", caplog.text)
    assert words == ([called] if called else [])


def test_the_threshold_of_a_rare_class_is_shown_with_its_digits():
    """It read 0.000, at which every image is positive."""
    p = np.repeat([1e-5, 4e-4, 6e-4], [90, 2, 8])
    labels, probabilities = (p > 5e-4).astype(int), np.stack([1 - p, p], axis=1)
    decision = rules().fit(labels, probabilities, TWO)
    line = next(
        line
        for line in describe_metrics(measure(labels, probabilities, TWO, decision), decision)
        if "threshold" in line
    )
    shown = float(re.search(r"'dog': (\S+) ", line)[1])
    assert ((p >= shown) == (labels == 1)).all() and "sensitivity 1.000" in line and "specificity 1.000" in line


def test_nan_has_no_threshold():
    with pytest.raises(ValueError, match="NaN"):
        choose_threshold(np.array([0, 1]), np.array([np.nan, 0.2]), "accuracy")


def test_of_many_classes_the_most_frequent_confusions_take_the_place_of_the_matrix():
    labels = np.arange(303) % 101
    probabilities = np.full((303, 101), 0.001)
    probabilities[np.arange(303), np.where(labels == 7, 8, labels)] = 0.9
    found = measure(labels, probabilities, [f"c{k}" for k in range(101)], None)
    assert found.confusion is None and [(each.label, each.predicted, each.n) for each in found.confused] == [
        ("c7", "c8", 3)
    ]
    assert found.class_counts == [3] * 101
    few = measure(labels[labels < 100], probabilities[labels < 100, :100], [f"c{k}" for k in range(100)], None)
    assert few.confused is None and np.array(few.confusion).trace() == 297
