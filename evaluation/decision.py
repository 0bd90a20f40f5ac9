"""What follows from a network's probabilities: temperature, threshold, and which images can be decided.

Fitted on validation images, kept in the checkpoint as plain values, measured on test images. Labels are (n,) class
indices, probabilities (n, K) as the network gives them; a threshold and a confidence are of these, not of calibrated ones.
"""

from typing import Literal

import numpy as np

from evaluation.calibration import (
    brier,
    coverage_at_accuracy,
    ece,
    fit_temperature,
    logarithm,
    selective_accuracy,
    with_temperature,
)
from evaluation.scores import average_precision, bootstrap_intervals, per_class
from evaluation.thresholds import at_threshold, choose_threshold


class DecisionRules:
    """What is to be fitted.

    Args:
        positive_class: of two classes; None: the second one.
        threshold_criterion: what the threshold of the positive class is to be best for.
        false_negative_cost: what a missed positive costs in false alarms, with `threshold_criterion=cost`.
        target_accuracy: of the share of the images that is decided.
    """

    def __init__(
        self,
        *,
        positive_class: str | None,
        threshold_criterion: Literal["accuracy", "balanced_accuracy", "f1", "cost"],
        false_negative_cost: float,
        target_accuracy: float,
    ):
        if not 0 < false_negative_cost < np.inf:
            raise ValueError(f"decision.false_negative_cost={false_negative_cost}: use a number above 0, e.g. 5")
        if not 0 < target_accuracy <= 1:
            raise ValueError(f"decision.target_accuracy={target_accuracy}: use a share above 0 and up to 1")
        self.positive_class = positive_class
        self.threshold_criterion = threshold_criterion
        self.false_negative_cost = false_negative_cost
        self.target_accuracy = target_accuracy

    def check(self, classes: list[str]) -> None:
        """Whether the positive class is one of two.

        Raises:
            ValueError: it is not.
        """
        if self.positive_class is not None and (len(classes) != 2 or self.positive_class not in classes):
            of_two = "" if len(classes) == 2 else f", and is for two classes (here are {len(classes)})"
            raise ValueError(
                f"decision.positive_class={self.positive_class}: allowed are {', '.join(classes)}{of_two}; null takes the "
                "second of two"
            )

    def made(self, decision: dict, classes: list[str]) -> bool:
        """Whether a decision was fitted by these rules."""
        return all(decision.get(name) == value for name, value in self._own(classes).items())

    def _own(self, classes: list[str]) -> dict:
        own = {"target_accuracy": self.target_accuracy}
        if len(classes) == 2:
            own |= {
                "positive_class": self.positive_class or classes[1],
                "threshold_criterion": self.threshold_criterion,
            }
            own |= {"false_negative_cost": self.false_negative_cost} if self.threshold_criterion == "cost" else {}
        return own

    def fit(self, labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict:
        """The decision, as plain values for a checkpoint and a record."""
        decided = coverage_at_accuracy(labels, probabilities, self.target_accuracy)
        decision = {
            "temperature": fit_temperature(labels, logarithm(probabilities)),
            "confidence": decided["confidence"],
            "fitted_on": len(labels),
            **self._own(classes),
        }
        if len(classes) == 2:
            index = classes.index(decision["positive_class"])
            decision["threshold"] = choose_threshold(
                labels == index, probabilities[:, index], self.threshold_criterion, self.false_negative_cost
            )
        return decision


def measure(labels: np.ndarray, probabilities: np.ndarray, classes: list[str], decision: dict | None) -> dict:
    """What a record's `val` and `test` say beside accuracy: intervals, each class, calibration, two classes, deciding."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    k = len(classes)
    positive = (decision or {}).get("positive_class", classes[-1])
    index = classes.index(positive)
    # Of two classes the positive one comes last: the figures of both are the same, but for average precision
    order = [1 - index, index] if k == 2 else list(range(k))
    intervals = bootstrap_intervals(np.argsort(order)[labels], probabilities[:, order])
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    found = {
        "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()},
        "brier": brier(labels, probabilities),
        "per_class": per_class(confusion, classes),
    }
    if k == 2:
        found["binary"] = {
            "positive_class": positive,
            "average_precision": average_precision(labels == index, probabilities[:, index]),
            "at_half": at_threshold(labels == index, probabilities[:, index], 0.5),
        }
    if decision is None:
        return found
    calibrated = with_temperature(probabilities, decision["temperature"])
    found["calibrated"] = {
        "loss": float(-logarithm(calibrated)[np.arange(len(labels)), labels].mean()),
        "ece": ece(labels, calibrated),
        "brier": brier(labels, calibrated),
    }
    if k == 2:
        found["binary"]["at_threshold"] = at_threshold(labels == index, probabilities[:, index], decision["threshold"])
    if decision["confidence"] is not None:
        found["decided"] = selective_accuracy(labels, probabilities, decision["confidence"])
    return found


def describe_metrics(section: dict, decision: dict | None) -> list[str]:
    """A section of a record, as lines for the screen."""
    low_high = {name: f"{low:.3f} to {high:.3f}" for name, (low, high) in section["intervals"].items()}
    lines = [
        ", ".join(
            f"{words} {section[name]:.3f} ({low_high[name]})"
            for name, words in (("balanced_accuracy", "balanced accuracy"), ("f1", "macro F1"), ("auroc", "AUROC"))
        )
    ]
    if decision is None:
        return lines
    lines.append(
        f"calibration error (ECE) {section['ece']:.3f}, with temperature {decision['temperature']:.2f} "
        f"{section['calibrated']['ece']:.3f}"
    )
    if "binary" in section:
        at = section["binary"]["at_threshold"]
        shares = ", ".join(
            f"{name} {at[name]['value']:.3f} ({at[name]['low']:.3f} to {at[name]['high']:.3f})"
            for name in ("sensitivity", "specificity")
        )
        best_for = decision["threshold_criterion"].replace("_", " ")
        lines.append(
            f"{decision['positive_class']} from p = {decision['threshold']:.3f} on (best {best_for} on val): {shares}"
        )
    if "decided" in section and section["decided"]["n"]:
        decided = section["decided"]
        lines.append(
            f"{decided['share']:.0%} of the images can be decided (confidence {decided['confidence']:.3f} and more, for an "
            f"accuracy of {decision['target_accuracy']:g} on val): accuracy {decided['accuracy']['value']:.3f} "
            f"({decided['accuracy']['low']:.3f} to {decided['accuracy']['high']:.3f})"
        )
    return lines
