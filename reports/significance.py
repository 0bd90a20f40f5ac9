"""Which rows can be distinguished from the best of their group, and the answer in two sentences."""

from collections.abc import Sequence

import numpy as np

from common.text import SPLIT_NAMES, compact_count, join_words, plural
from evaluation.intervals import two_way_difference
from evaluation.paired_tests import (
    WANTED_DIFFERENCE,
    BiasCorrectedBest,
    bias_corrected_best,
    holm,
    mcnemar,
    paired_difference,
    sample_size_for,
)
from reports.accuracy import Accuracy, CorrectnessMatrix
from reports.report_data import Comparison, ResultGroup, ResultRow

RESAMPLES = 1000
DRAWS = 4_000_000_000  # resamples x images x rows, about a second


def compare_to_best(group: ResultGroup) -> None:
    """Give every row of a group its comparison, and the group its selection bias."""
    group.split = _common_split(group.rows)
    best, *others = group.rows
    best.comparison = Comparison(reason="the best" if best.ranked_by else "no accuracy")
    for row, comparison in zip(others, compare_rows(others, best, group.split), strict=True):
        row.comparison = comparison
    group.selection_bias = _selection_bias(group)


def compare_rows(rows: Sequence[ResultRow], best: ResultRow, split: str) -> list[Comparison]:
    """Compare each row with the best, with Holm's correction over these comparisons."""
    found = [_compare(row.outcomes[split], best.outcomes[split], split) for row in rows]
    corrected = iter(holm([each.p_value for each in found if each.reason is None]))
    return [each if each.reason else each._replace(p_value=next(corrected)) for each in found]


def answer(group: ResultGroup) -> list[str]:
    """Answer in two sentences: which is the best, and which smallest network cannot be distinguished from it."""
    best, *others = group.rows
    if best.ranked_by is None:
        costs = sorted((row for row in group.rows if row.macs is not None), key=lambda row: row.macs)
        smallest = f" The smallest network is {costs[0].name} with {_macs(costs[0])}." if costs else ""
        return [f"No accuracies were measured, so there is no best of these {len(group.rows):,}.{smallest}"]
    by = "test, which also chose its epoch (so this accuracy is too good)" if best.selected_on_test else "validation"
    results = [] if best.selected_on_test else [f"validation accuracy {describe_accuracy(best.ranked_by)}"]
    test = best.accuracies["test"]
    results.append(f"test accuracy {describe_accuracy(test)}" if test else "it was not evaluated on test")
    if not others:
        only = f"There is only one setting, {best.name}, and nothing to compare it with"
        return [f"{only}.", f"{'By ' + by + ': ' if best.selected_on_test else 'It has '}{', '.join(results)}."]
    return [f"The best by {by} is {best.name}: {', '.join(results)}.", _smallest_as_good(group)]


def describe_accuracy(accuracy: Accuracy | None) -> str:
    """Return `0.820 (0.780 to 0.850, n = 445)`, with the number of seeds where there are several."""
    if accuracy is None:
        return "-"
    parts = []
    if accuracy.n_seeds > 1:
        parts.append(f"mean of {accuracy.n_seeds} seeds")
    if accuracy.low is not None:
        parts.append(f"{accuracy.low:.3f} to {accuracy.high:.3f}")
    parts.append(f"n = {accuracy.n:,}" if accuracy.n else "n unknown")
    return f"{accuracy.value:.3f} ({', '.join(parts)})"


def describe_selection_bias(group: ResultGroup) -> str | None:
    """Return `best of 4 on validation: 0.840 as measured, 0.830 corrected`."""
    if group.selection_bias is None:
        return None
    found, n = group.selection_bias
    return f"best of {n:,} on validation: {found.value:.3f} as measured, {found.corrected:.3f} corrected"


def _smallest_as_good(group: ResultGroup) -> str:
    """Name the smallest network that cannot be distinguished from the best, or say why there is none."""
    best, *others = group.rows
    split = SPLIT_NAMES[group.split]
    compared = [row for row in others if row.comparison.reason is None]
    if not compared:
        return f"It was compared with none of the others: {others[0].comparison.reason}."
    close = [row for row in compared if not row.comparison.distinguishable or row.comparison.difference > 0]
    smaller = [row for row in compared if None not in (row.macs, best.macs) and row.macs < best.macs]
    candidates = sorted((row for row in smaller if row in close), key=lambda row: (row.macs, row.rank))
    unknown = len(others) - len(compared)
    rest = f" ({plural(unknown, 'row')} could not be compared)" if unknown else ""
    if candidates:
        row = candidates[0]
        how = "is not worse" if row.comparison.distinguishable else "cannot be distinguished from it"
        share = f"{row.macs / best.macs:.2g} times those of {best.name}"
        evidence = _evidence(row, split)
        return f"The smallest network that {how} is {row.name} with {_macs(row)}, {share} ({evidence}){rest}."
    if smaller:
        which = "The smaller network is" if len(smaller) == 1 else f"All {len(smaller):,} smaller networks are"
        return f"{which} distinguishably worse on {split}{rest}."
    size = "No network here is smaller" if None not in (best.macs, *(r.macs for r in others)) else "Costs are not known"
    if not close:
        others_are = "the other is" if len(compared) == 1 else f"all {len(compared):,} others are"
        return f"{size}, and {others_are} distinguishably worse on {split}{rest}."
    names = join_words([row.name for row in close], 4)
    return f"{size}; {names} cannot be distinguished from it ({_evidence(close[0], split)}){rest}."


def _evidence(row: ResultRow, split: str) -> str:
    """Return `difference -0.010, -0.041 to 0.021, with 445 test images; 5,100 images would be needed to detect ...`."""
    found = row.comparison
    seeds = f" and {found.seeds} seeds" if found.seeds > 1 else ""
    text = (
        f"difference {found.difference:+z.3f}, {found.low:z.3f} to {found.high:z.3f}, "
        f"with {found.n:,} {split} images{seeds}"
    )
    if found.distinguishable:
        return text
    enough = "images are enough" if found.needed <= found.n else "images would be needed"
    return f"{text}; {found.needed:,} {enough} to detect a difference of {WANTED_DIFFERENCE:g}"


def _macs(row: ResultRow) -> str:
    return f"{compact_count(row.macs)} multiply-accumulates"


def _common_split(rows: list[ResultRow]) -> str:
    """Choose test where all rows have its predictions, else validation, or the one that more rows have."""
    have = {s: sum(isinstance(row.outcomes[s], CorrectnessMatrix) for row in rows) for s in SPLIT_NAMES}
    return "val" if have["test"] < len(rows) and have["val"] > have["test"] else "test"


def _compare(row: CorrectnessMatrix | str, best: CorrectnessMatrix | str, split: str) -> Comparison:
    """Compare a row with the best, not yet corrected for the number of rows."""
    for found, whose in ((row, ""), (best, "of the best, ")):
        if isinstance(found, str):
            return Comparison(reason=whose + found)
    if row.images != best.images:
        return Comparison(reason=f"its {SPLIT_NAMES[split]} images or labels differ from those of the best")
    pairs = [(row.seeds.index(seed), best.seeds.index(seed)) for seed in row.seeds if seed in best.seeds]
    if not pairs and len(row.seeds) == len(best.seeds) == 1:
        pairs = [(0, 0)]
    if not pairs:
        return Comparison(reason="it has no seed in common with the best")
    a = row.correct[[i for i, _ in pairs]]
    b = best.correct[[j for _, j in pairs]]
    n = a.shape[1]
    needed = sample_size_for(WANTED_DIFFERENCE, float((a != b).mean()))
    if len(pairs) == 1:
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        value, low, high = paired_difference(only_a, only_b, n)
        return Comparison(value, low, high, mcnemar(only_a, only_b), n, 1, needed)
    if n < 2:
        return Comparison(reason="one image shows nothing")
    found = two_way_difference(a, b)
    return Comparison(found.mean, found.low, found.high, found.p_value, n, len(pairs), needed)


def _selection_bias(group: ResultGroup) -> tuple[BiasCorrectedBest, int] | None:
    """Correct the best by validation, over the rows on the same validation images, each the mean over its seeds."""
    first = group.rows[0].outcomes["val"]
    if isinstance(first, str) or group.selected_on_test:
        return None
    each = [row.outcomes["val"] for row in group.rows]
    same = [found for found in each if not isinstance(found, str) and found.images == first.images]
    n = first.correct.shape[1]
    if len(same) < 2 or n < 2:
        return None
    means = np.stack([found.correct.mean(axis=0) for found in same])
    resamples = int(np.clip(DRAWS / means.size, 50, RESAMPLES))
    return bias_corrected_best(means, resamples), len(same)
