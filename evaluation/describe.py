"""A split's metrics and decision in words, the same on the screen, in the model card and in predict.py."""

import math

from common.run_record import ClassScores, Decision, Proportion, SplitMetrics
from common.text import (
    clean,
    digits_of_share,
    format_confidence,
    format_interval,
    join_words,
    plural,
    rounded_down,
    short_name,
)
from evaluation.calibration import at_bound, images_needed
from evaluation.estimates import few_images
from evaluation.intervals import ONE_SIDED, coverage_caveat, format_accuracy, guessing_probability

MOST_CLASSES = 10  # whose recall is shown; with more classes only the WORST
WORST = 5
ROUNDING = 1e-9  # of sums of probabilities
NAMES = {"balanced_accuracy": "balanced accuracy", "f1": "macro F1", "auroc": "AUROC"}


def describe_metrics(metrics: SplitMetrics, decision: Decision | None, split: str = "these images") -> list[str]:
    """Return a split's metrics other than accuracy, as lines for the screen."""
    values = {name: getattr(metrics, name) for name in NAMES} | metrics.further
    lines = [
        ", ".join(
            f"{NAMES.get(name, name)} {value:.3f}{_interval(metrics.intervals.get(name))}"
            for name, value in values.items()
            if value is not None
        )
    ]
    lines += [describe_recall(metrics.per_class)] if metrics.per_class else []
    if metrics.ece is not None:
        lines.append(f"calibration error (ECE): {describe_calibration(metrics, decision)}")
    if metrics.binary and metrics.binary.at_threshold:
        at = metrics.binary.at_threshold
        goal = "minimizes" if decision.threshold_criterion == "cost" else "maximizes"
        lines.append(
            f"threshold for '{clean(decision.positive_class)}': {format_threshold(at.threshold)} "
            f"({goal} {decision.threshold_criterion.replace('_', ' ')} on val): "
            f"sensitivity {_describe(at.sensitivity)}, specificity {_describe(at.specificity)}"
        )
    if decision:
        lines.append(f"selective prediction: {describe_promise(decision)}{_decided(metrics, split)}")
    return lines + describe_caveats(metrics)


def describe_caveats(metrics: SplitMetrics) -> list[str]:
    """Return the caveats on the intervals of these metrics, one sentence each."""
    caveats = [coverage_caveat(metrics.accuracy)] if metrics.accuracy else []
    if metrics.per_class:
        counts, classes = zip(*((each.n, each.name) for each in metrics.per_class), strict=True)
        caveats.append(few_images(counts, list(classes), list(metrics.further)))
        drawn = [clean(name, 40) for name in metrics.further if name in metrics.intervals]
        flawless = [short_name(each.name) for each in metrics.per_class if each.recall and each.recall.value == 1]
        if drawn and flawless:  # a bootstrap knows only the errors that were made
            caveats.append(
                f"all images of {join_words(flawless)} are right, also in every resample: the 95% interval of "
                f"{join_words(drawn)} can cover as little as 63%"
            )
    return [text for text in caveats if text]


def name_accuracy(metrics: SplitMetrics, split: str) -> str:
    """Return `Test accuracy`, or `Accuracy on 8 of 14 test images only` for a debug run that was limited to some images."""
    return f"Accuracy on {metrics.part} only" if metrics.part else f"{split.capitalize()} accuracy"


def describe_accuracy(metrics: SplitMetrics) -> str:
    """Return `0.7933 (353 of 445, 95% interval 0.753 to 0.829); always 'functional': 0.6787`."""
    baseline = metrics.guessing
    beside = f"; always '{short_name(baseline.name)}': {baseline.share:.4f}" if baseline else ""
    return format_accuracy(metrics.accuracy) + beside


def compare_to_guessing(metrics: SplitMetrics) -> str | None:
    """Return `clearly better than always answering 'functional' (0.679)`, or that this is not shown; None if unknown."""
    if metrics.guessing is None:
        return None
    better = "clearly better" if (worse := describe_guessing(metrics)) is None else "not shown to be better"
    exact = ""
    if worse and not metrics.no_better_than_guessing:  # the interval beside this sentence does not show why
        by_chance = guessing_probability(metrics.accuracy.correct, metrics.accuracy.n, metrics.guessing.share)
        exact = f"; exact test: p = {by_chance:.3f}"
    return f"{better} than always answering '{short_name(metrics.guessing.name)}' ({metrics.guessing.share:.3f}{exact})"


def describe_guessing(metrics: SplitMetrics) -> str | None:
    """Say that a network is no better than guessing; None if it is better by both its interval and the exact test."""
    found, baseline = metrics.accuracy, metrics.guessing
    if not found or not baseline or not found.n:
        return None
    by_chance = guessing_probability(found.correct, found.n, baseline.share)
    if metrics.no_better_than_guessing:
        why = f"the interval of its accuracy reaches down to {rounded_down(found.low)}, and always"
    elif by_chance > ONE_SIDED:
        why = f"guessing gets {found.correct:,} or more of them right with a probability of {by_chance:.3f}; always"
    else:
        return None
    text = (
        f"no better than guessing as far as {plural(found.n, 'image')} can tell: {why} "
        f"'{short_name(baseline.name)}' is right in {baseline.share:.3f}"
    )
    if metrics.better_than_guessing_by_class:
        interval = _interval(metrics.intervals["balanced_accuracy"])
        text += f"; yet it tells classes apart: balanced accuracy {metrics.balanced_accuracy:.3f}{interval}"
    return text


def describe_calibration(metrics: SplitMetrics, decision: Decision | None) -> str:
    """Return the ECE, the ECE that chance gives, and the ECE after temperature scaling."""
    text, chance = f"{metrics.ece:.3f}", metrics.ece_by_chance
    if chance:
        up_to = max(chance.mean, chance.p95)  # with rare large errors the mean may be above the quantile
        # If all images are right, the two are the same sum, added up in another order
        verdict = "no miscalibration can be seen" if metrics.ece <= up_to + ROUNDING else "miscalibrated"
        images = plural(metrics.accuracy.n, "image")
        text += (
            f" (a perfectly calibrated network shows {chance.mean:.3f}, up to {up_to:.3f}, with {images}): {verdict}"
        )
    if decision is None or metrics.calibrated is None:
        return text
    if decision.temperature == 1:
        return f"{text}; no temperature is fitted, because validation has no error"
    bound = ", a bound of the search" if at_bound(decision.temperature) else ""
    return f"{text}; with temperature {decision.temperature:.2f}{bound}: {metrics.calibrated.ece:.3f}"


def describe_promise(decision: Decision, like: str = "these") -> str:
    """Return the promised accuracy and the confidence from which on it holds, or why none is promised.

    Args:
        like: completes "images like": the promise holds for images from the same source as the validation images.
    """
    target, n = f"accuracy {decision.target_accuracy:g}", decision.fitted_on or 0
    if decision.delta is None:  # of a file in 8 bits, or from an older version, which took what just reached the target
        confidence = decision.confidence
        reached = "no confidence" if confidence is None else f"confidence >= {format_confidence(confidence)}"
        return f"{reached} reached {target} on validation, which promises nothing for other images"
    if decision.confidence is not None:
        sure = f"with {100 * (1 - decision.delta):g}% confidence on images like {like}"
        return f"{target} {sure}: confidence >= {format_confidence(decision.confidence)}"
    needed = images_needed(decision.target_accuracy, decision.delta, decision.design_effect)
    if needed == math.inf:
        return f"{target} cannot be promised by any number of images"
    grouped = ", several of one group" if decision.design_effect > 1 else ""
    few = ", or too few groups," if grouped else ""
    if n < needed:
        reason = f"with {plural(n, 'validation image')}{grouped} (at least {needed:,} without an error are needed)"
    else:
        reason = f"with these {n:,} validation images{grouped} (too many errors{few} among the most confident ones)"
    return f"{target} cannot be promised {reason}"


def format_threshold(threshold: float) -> str:
    """Return `0.338`; near 0 and 1, where rare classes have their probabilities, more digits: `0.000143295`."""
    return f"{threshold:.3f}" if 0.01 <= threshold <= 0.99 else f"{threshold:.6g}"


def describe_recall(classes: list[ClassScores]) -> str:
    """Return the recall of each class with images; with many classes only the worst."""
    known = [scores for scores in classes if scores.recall]
    title = "recall"
    if len(known) > MOST_CLASSES:
        title = f"recall, the {WORST} worst of {len(known):,} classes"
        known = sorted(known, key=lambda scores: scores.recall.value)[:WORST]
    parts = [f"{short_name(each.name)} {_describe(each.recall, 2, f', n = {each.n:,}')}" for each in known]
    return f"{title}: {', '.join(parts)}"


def _decided(metrics: SplitMetrics, split: str) -> str:
    if metrics.selective is None:
        return ", so predict.py abstains from every image"
    accuracy = f": {_describe(metrics.selective.accuracy)}" if metrics.selective.accuracy else ""
    coverage = metrics.selective.coverage
    return f", decides {coverage:.{digits_of_share(coverage) - 2}%} of {split}{accuracy}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({format_interval(*interval)})"


def _describe(share: Proportion, least: int = 3, more: str = "") -> str:
    """Return `0.930 (0.900 to 0.952)`, with more than `least` digits if those would hide an error."""
    digits = digits_of_share(share.value, least)
    return f"{share.value:.{digits}f} ({format_interval(share.low, share.high, digits)}{more})"
