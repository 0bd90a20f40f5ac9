"""The metrics of a split, and the decision: temperature, threshold and confidence, fitted on validation images.

The validation images also chose the epoch, which flatters all three; test measures them on images that chose nothing.

n images, K classes. Labels are (n,) class indices, probabilities (n, K) as the network gives them; threshold and
confidence apply to these, not to calibrated probabilities. `groups` are (n,) numbers of the groups that several images come
from; None: each image is its own.
"""

import logging
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.run_record import AtThreshold, Baseline, Binary, Calibrated, Criterion, Decision, SplitMetrics
from common.text import short_name
from evaluation.calibration import (
    at_bound,
    brier,
    confidence_for_accuracy,
    ece,
    ece_by_chance,
    fit_temperature,
    logarithm,
    selective_accuracy,
    with_temperature,
)
from evaluation.estimates import FurtherMetric, estimate_metrics
from evaluation.intervals import class_effects, design_effect, proportion
from evaluation.scores import (
    MOST_IN_MATRIX,
    checked,
    count_confusion,
    most_confused,
    per_class,
    two_classes,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class DecisionRules:
    """Fit a decision to the validation images.

    Args:
        positive_class: name of one of two classes (an int if the name is a whole number); None: the second one.
        threshold_criterion: what the threshold of the positive class maximizes, or with `cost` minimizes.
        false_negative_cost: cost of a missed positive in false alarms, for `threshold_criterion=cost`.
        target_accuracy: promised for the images whose confidence suffices for a prediction.
        delta: probability with which the promise of that accuracy may fail.
    """

    positive_class: str | int | None
    threshold_criterion: Criterion
    false_negative_cost: float
    target_accuracy: float
    delta: float = 0.1  # older runs have no such setting

    def __post_init__(self):
        if not 0 < self.false_negative_cost < np.inf:
            raise UserError(f"decision.false_negative_cost={self.false_negative_cost}: use a number above 0, e.g. 5")
        if not 0 < self.target_accuracy <= 1:
            raise UserError(f"decision.target_accuracy={self.target_accuracy}: use a share above 0 and up to 1")
        if not 0 < self.delta < 1:
            raise UserError(f"decision.delta={self.delta}: use a probability above 0 and below 1, e.g. 0.1")
        self.positive_class = None if self.positive_class is None else str(self.positive_class)

    def check(self, classes: list[str]) -> None:
        """Raise UserError unless the positive class is one of two."""
        if self.positive_class is not None and (len(classes) != 2 or self.positive_class not in classes):
            of_two = "" if len(classes) == 2 else f", and it needs two classes (there are {len(classes)})"
            raise UserError(
                f"decision.positive_class={self.positive_class}: allowed are {', '.join(classes)}{of_two}; null takes the "
                "second of two"
            )

    def matches(self, decision: Decision, classes: list[str]) -> bool:
        """Return whether a decision was fitted by these rules."""
        return all(getattr(decision, name) == value for name, value in self._settings(classes).items())

    def fit(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        classes: list[str],
        logits: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Decision:
        """Fit temperature and confidence, and a threshold if there are images of two classes.

        Args:
            logits: (n, K); None: the logarithm of the probabilities.
        """
        effect = design_effect(probabilities.argmax(axis=1) == labels, groups)
        decision = Decision(
            temperature=fit_temperature(labels, logarithm(probabilities) if logits is None else logits),
            confidence=confidence_for_accuracy(labels, probabilities, self.target_accuracy, self.delta, groups),
            fitted_on=len(labels),
            design_effect=effect,
            **self._settings(classes),
        )
        if decision.temperature == 1:
            log.warning("no temperature is fitted: validation has no error, so the probabilities stay as they are")
        elif at_bound(decision.temperature):
            log.warning(
                "the temperature is at a bound of its search, %.3g: calibrated probabilities mean little",
                decision.temperature,
            )
        if len(classes) == 2 == len(np.unique(labels)):
            index = classes.index(decision.positive_class)
            decision.threshold = choose_threshold(
                labels == index, probabilities[:, index], self.threshold_criterion, self.false_negative_cost
            )
            if not 0 < decision.threshold <= 1:
                name = decision.positive_class if decision.threshold == 0 else classes[1 - index]
                log.warning(
                    "decision.threshold_criterion=%s: on validation no threshold is better than calling every image '%s', so "
                    "the threshold does that", self.threshold_criterion, short_name(name),
                )  # fmt: skip
        return decision

    def _settings(self, classes: list[str]) -> dict:
        """Return the fields of a decision that these rules set; those for two classes are None otherwise."""
        two = len(classes) == 2
        return {
            "target_accuracy": self.target_accuracy,
            "delta": self.delta,
            "positive_class": (self.positive_class or classes[1]) if two else None,
            "threshold_criterion": self.threshold_criterion if two else None,
            "false_negative_cost": self.false_negative_cost if two and self.threshold_criterion == "cost" else None,
        }


def measure(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    decision: Decision | None,
    further: dict[str, FurtherMetric] | None = None,
    *,
    logits: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> SplitMetrics:
    """Compute every metric of a split except `loss`, `part` and `test_evaluations`, which the engine fills in.

    A mean over classes counts only classes with images, macro F1 also those that were predicted; `auroc` and `binary` are None
    if all images are of one class.

    Args:
        decision: of the checkpoint.
        further: the user's own metrics by their names.
        logits: (n, K), which rank the images for AUROC and average precision; None: not known, probabilities rank them.
    """
    labels, probabilities = checked(labels, probabilities)
    k, several = len(classes), len(np.unique(labels)) > 1
    predicted = probabilities.argmax(axis=1)
    confusion, effect = count_confusion(labels, predicted, k), design_effect(predicted == labels, groups)
    positive = classes.index((decision and decision.positive_class) or classes[-1])
    # The positive class comes last: with two classes, only average precision depends on which one that is
    order = [1 - positive, positive] if k == 2 else list(range(k))
    found = estimate_metrics(
        np.argsort(order)[labels], probabilities[:, order], None if logits is None else logits[:, order], groups
    )
    confidence, threshold = (decision.confidence, decision.threshold) if decision else (None, None)
    binary = None
    if k == 2 and several:
        is_positive, scores = labels == positive, probabilities[:, positive]
        binary = Binary(
            positive_class=classes[positive],
            average_precision=found["average_precision"].value,
            at_half=at_threshold(is_positive, scores, 0.5, groups),
            at_threshold=None if threshold is None else at_threshold(is_positive, scores, threshold, groups),
        )
    own = further or {}
    intervals = {name: each.interval for name, each in (found | own).items() if each.interval is not None}
    return SplitMetrics(
        accuracy=proportion(int(confusion.trace()), len(labels), effect),
        baseline=Baseline.of(dict(zip(classes, confusion.sum(axis=1).tolist(), strict=True))),
        balanced_accuracy=found["balanced_accuracy"].value,
        f1=found["f1"].value,
        auroc=found["auroc"].value if several else None,
        ece=ece(labels, probabilities),
        ece_by_chance=ece_by_chance(probabilities, effect=effect),
        brier=brier(labels, probabilities),
        confusion=confusion.tolist() if k <= MOST_IN_MATRIX else None,
        confused=None if k <= MOST_IN_MATRIX else most_confused(confusion, classes),
        intervals={name: tuple(interval) for name, interval in intervals.items()},
        further={name: metric.value for name, metric in own.items()},
        per_class=per_class(
            confusion, classes, *(class_effects(predicted == labels, of, k, groups) for of in (labels, predicted))
        ),
        binary=binary,
        calibrated=_calibrated(labels, probabilities, decision.temperature) if decision else None,
        selective=None if confidence is None else selective_accuracy(labels, probabilities, confidence, groups),
    )


def _calibrated(labels: np.ndarray, probabilities: np.ndarray, temperature: float) -> Calibrated:
    calibrated = with_temperature(probabilities, temperature)
    return Calibrated(
        loss=float(-logarithm(calibrated)[np.arange(len(labels)), labels].mean()),
        ece=ece(labels, calibrated),
        brier=brier(labels, calibrated),
    )


def at_threshold(
    labels: np.ndarray, scores: np.ndarray, threshold: float, groups: np.ndarray | None = None
) -> AtThreshold:
    """Measure the predictions for two classes, where a score of at least `threshold` is positive.

    Args:
        labels: (n,) 1 positive, 0 negative.
        scores: (n,) probability of the positive class.
        threshold: e.g. from `choose_threshold`.

    Raises:
        ValueError: a class is absent, or the lengths differ.
    """
    positive, scores = two_classes(labels, scores)
    predicted = scores >= threshold
    hits, predicted_n, positives = (int(x.sum()) for x in (predicted & positive, predicted, positive))
    n = len(scores)
    negatives = n - positives
    rejected = negatives - (predicted_n - hits)
    right = predicted == positive
    of_negatives, of_positives = class_effects(right, positive.astype(int), 2, groups).tolist()
    of_predicted = class_effects(right, predicted.astype(int), 2, groups).tolist()[1]
    return AtThreshold(
        threshold=float(threshold),
        accuracy=proportion(hits + rejected, n, design_effect(right, groups)),
        sensitivity=proportion(hits, positives, of_positives),
        specificity=proportion(rejected, negatives, of_negatives),
        precision=proportion(hits, predicted_n, of_predicted) if predicted_n else None,
        balanced_accuracy=(hits / positives + rejected / negatives) / 2,
        f1=2 * hits / (positives + predicted_n),
    )


def choose_threshold(
    labels: np.ndarray, scores: np.ndarray, criterion: Criterion, false_negative_cost: float = 1.0
) -> float:
    """Choose the threshold that is best on these images; ties go to the one nearest to 0.5. Measure it on other images.

    Candidates lie halfway between neighboring scores; at 0 every image is predicted positive, at the smallest number
    above 1 none is.

    Args:
        labels: (n,) 1 positive, 0 negative.
        scores: (n,) probability of the positive class, 0 to 1.
        criterion: what it maximizes, or with `cost` minimizes; f1 is that of the positive class.
        false_negative_cost: for `cost`, the cost of a missed positive in false alarms.

    Raises:
        ValueError: labels and scores as for `auroc`.
    """
    positive, scores = two_classes(labels, scores)
    distinct, group = np.unique(scores, return_inverse=True)
    middles = (distinct[:-1] + distinct[1:]) / 2
    middles = np.where(middles > distinct[:-1], middles, distinct[1:])  # between neighboring floats there is none
    thresholds = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])  # (G + 1,)
    below_positive = np.bincount(group, weights=positive, minlength=len(distinct))
    below_negative = np.bincount(group, weights=~positive, minlength=len(distinct))
    missed = np.append(0, np.cumsum(below_positive))  # positives below each threshold
    rejected = np.append(0, np.cumsum(below_negative))
    positives, negatives = missed[-1], rejected[-1]
    hits, alarms = positives - missed, negatives - rejected
    values = {
        "accuracy": hits + rejected,
        "balanced_accuracy": hits / positives + rejected / negatives,
        "f1": 2 * hits / (positives + hits + alarms),
        "cost": -(false_negative_cost * missed + alarms),
    }
    value = values[criterion]
    best = thresholds[value >= value.max() - 1e-12 * max(1.0, abs(value.max()))]
    return float(best[np.abs(best - 0.5).argmin()])
