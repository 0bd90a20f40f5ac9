"""The decision: fitted on validation images by the rules, measured on others, in words."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from evaluation.decision import DecisionRules, describe_metrics, measure

RULES = {"positive_class": None, "threshold": "balanced_accuracy", "false_negative_cost": 1, "target_accuracy": 0.95}


def made_up(n=400, classes=2, sharpness=3.0, seed=0):
    """Labels, and probabilities that are too sure of themselves by the factor `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(classes, p=line) for line in true])
    sharp = np.exp(sharpness * logits)
    return labels, sharp / sharp.sum(axis=1, keepdims=True)


def test_the_temperature_undoes_what_made_the_network_too_sure():
    labels, probabilities = made_up(20_000)
    decision = DecisionRules(**RULES).fit(labels, probabilities, ["cat", "dog"])
    assert decision["temperature"] == pytest.approx(3.0, rel=0.05)
    section = measure(labels, probabilities, ["cat", "dog"], decision)
    assert section["calibrated"]["ece"] < 0.015 < 0.1 < measure(labels, probabilities, ["cat", "dog"], None)["brier"]

    def loss(temperature):
        q = probabilities ** (1 / temperature)
        q = q / q.sum(axis=1, keepdims=True)
        return -np.log(q[np.arange(len(labels)), labels]).mean()

    best = minimize_scalar(loss, bounds=(1, 6), method="bounded")
    assert section["calibrated"]["loss"] == pytest.approx(best.fun, abs=1e-6)


@pytest.mark.parametrize("positive", ["cat", "dog"])
def test_the_positive_class_is_the_named_one(positive):
    labels, probabilities = made_up()
    decision = DecisionRules(**RULES | {"positive_class": positive}).fit(labels, probabilities, ["cat", "dog"])
    binary = measure(labels, probabilities, ["cat", "dog"], decision)["binary"]
    index = ["cat", "dog"].index(positive)
    called = probabilities[:, index] >= decision["threshold"]
    assert binary["positive_class"] == positive
    assert binary["at_threshold"]["sensitivity"]["value"] == called[labels == index].mean()
    assert binary["at_threshold"]["specificity"]["value"] == (~called)[labels != index].mean()


def test_figures_of_two_classes_do_not_depend_on_which_is_positive_but_average_precision_does():
    labels, probabilities = made_up()
    sections = [
        measure(labels, probabilities, ["cat", "dog"], DecisionRules(**RULES | {"positive_class": name}).fit(
            labels, probabilities, ["cat", "dog"]))
        for name in ("cat", "dog")
    ]  # fmt: skip
    precisions = [section["binary"]["average_precision"] for section in sections]
    assert precisions[0] != precisions[1]
    for section, precision in zip(sections, precisions, strict=True):
        low, high = section["intervals"]["average_precision"]
        assert low < precision < high
    assert sections[0]["brier"] == sections[1]["brier"] and sections[0]["per_class"] == sections[1]["per_class"]


def test_a_dear_miss_lowers_the_threshold():
    labels, probabilities = made_up(sharpness=1)
    cheap, dear = (
        DecisionRules(**RULES | {"threshold": "cost", "false_negative_cost": ratio}).fit(
            labels, probabilities, ["cat", "dog"]
        )
        for ratio in (1, 20)
    )
    assert dear["threshold"] < cheap["threshold"] and dear["false_negative_cost"] == 20


def test_more_classes_have_no_threshold():
    labels, probabilities = made_up(classes=3)
    decision = DecisionRules(**RULES).fit(labels, probabilities, ["a", "b", "c"])
    section = measure(labels, probabilities, ["a", "b", "c"], decision)
    assert "threshold" not in decision and "binary" not in section and len(section["per_class"]) == 3
    assert "average_precision" not in section["intervals"]
    lines = describe_metrics({**section, "balanced_accuracy": 0.5, "f1": 0.5, "auroc": 0.5, "ece": 0.1}, decision)
    assert "AUROC 0.500" in lines[0] and not any("p =" in line for line in lines)


def test_what_is_decided_is_measured_with_the_limit_of_validation():
    labels, probabilities = made_up(3000, sharpness=1)
    decision = DecisionRules(**RULES | {"target_accuracy": 0.9}).fit(
        labels[:1000], probabilities[:1000], ["cat", "dog"]
    )
    decided = measure(labels[1000:], probabilities[1000:], ["cat", "dog"], decision)["decided"]
    sure = probabilities[1000:].max(axis=1) >= decision["confidence"]
    right = probabilities[1000:].argmax(axis=1) == labels[1000:]
    assert decided["share"] == sure.mean() and decided["accuracy"]["value"] == right[sure].mean()
    assert decided["accuracy"]["value"] == pytest.approx(0.9, abs=0.04)


def test_rules_know_their_decisions_again():
    labels, probabilities = made_up()
    rules = DecisionRules(**RULES)
    decision = rules.fit(labels, probabilities, ["cat", "dog"])
    assert rules.made(decision, ["cat", "dog"])
    for change in ({"threshold": "f1"}, {"positive_class": "cat"}, {"target_accuracy": 0.9}):
        assert not DecisionRules(**RULES | change).made(decision, ["cat", "dog"])


@pytest.mark.parametrize(("change", "classes", "message"), [
    ({"positive_class": "fox"}, ["cat", "dog"], "decision.positive_class=fox: allowed are cat, dog"),
    ({"positive_class": "a"}, ["a", "b", "c"], "is for two classes .here are 3."),
    ({"false_negative_cost": 0}, ["cat", "dog"], "decision.false_negative_cost=0"),
    ({"target_accuracy": 1.5}, ["cat", "dog"], "decision.target_accuracy=1.5"),
])  # fmt: skip
def test_bad_rules_are_named(change, classes, message):
    with pytest.raises(ValueError, match=message):
        DecisionRules(**RULES | change).check(classes)
