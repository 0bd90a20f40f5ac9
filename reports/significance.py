"""Which rows can be told apart from the best of their section, and the answer in two sentences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.text import compact_count, join_words, plural
from evaluation.intervals import two_way_difference
from evaluation.paired_tests import (
    BiasCorrectedBest,
    bias_corrected_best,
    format_p,
    holm,
    mcnemar,
    paired_difference,
    sample_size_for,
)
from reports.accuracy import Accuracy
from reports.aggregate import ReportData, ResultGroup, ResultRow
from reports.outcomes import CorrectnessMatrix

WANTED_DIFFERENCE = 0.02
LEVEL = 0.05
RESAMPLES = 1000
DRAWS = 4_000_000_000  # resamples x images x rows, about a second
SPLITS = {"test": "test", "val": "validation"}


class Comparison(NamedTuple):
    """A row against the best of its section; `reason` tells why they are not compared, the rest is None then."""

    difference: float | None = None  # accuracy of this row minus that of the best
    low: float | None = None
    high: float | None = None
    p_value: float | None = None  # after Holm's correction over the comparisons of one table
    n: int | None = None  # images
    seeds: int | None = None  # that both have
    needed: int | None = None  # images to see WANTED_DIFFERENCE; disagreement as observed, power 0.8
    reason: str | None = None

    @property
    def apart(self) -> bool | None:
        return None if self.p_value is None else self.p_value < LEVEL

    def __str__(self) -> str:
        if self.reason is not None:
            return self.reason if self.reason == "the best" else f"not compared: {self.reason}"
        return f"{'can' if self.apart else 'cannot'} be told apart ({format_p(self.p_value)})"


def compare_to_best(summary: ReportData) -> None:
    """Gives every row its verdict and every section its optimism."""
    for section in summary.sections:
        section.split = _common_split(section.rows)
        best, *others = section.rows
        best.verdict = Comparison(reason="the best" if best.ranked_by else "no accuracy")
        for row, verdict in zip(others, compare_rows(others, best, section.split), strict=True):
            row.verdict = verdict
        section.optimism = _optimism(section)


def compare_rows(rows: Sequence[ResultRow], best: ResultRow, split: str) -> list[Comparison]:
    """Each row against the best, with Holm's correction over these comparisons."""
    found = [_against(row, best, split) for row in rows]
    corrected = iter(holm([verdict.p_value for verdict in found if verdict.reason is None]))
    return [verdict if verdict.reason else verdict._replace(p_value=next(corrected)) for verdict in found]


def answer(section: ResultGroup) -> list[str]:
    """Two sentences: which is the best, and the smallest network that cannot be told apart from it."""
    best, *others = section.rows
    if best.ranked_by is None:
        costs = sorted((row for row in section.rows if row.macs is not None), key=lambda row: row.macs)
        smallest = f" The smallest network is {costs[0].name} with {_macs(costs[0])}." if costs else ""
        return [f"No accuracies were measured, so there is no best of these {len(section.rows):,}.{smallest}"]
    by = (
        "test, on which its epoch was chosen too (so the figure is too good)" if best.selected_on_test else "validation"
    )
    figures = [] if best.selected_on_test else [f"validation accuracy {describe_accuracy(best.ranked_by)}"]
    test = best.accuracies["test"]
    figures.append(f"test accuracy {describe_accuracy(test)}" if test else "the test images were not opened")
    if not others:
        only = f"There is only one setting, {best.name}, and nothing to compare it with"
        return [f"{only}.", f"{'By ' + by + ': ' if best.selected_on_test else 'It has '}{', '.join(figures)}."]
    return [f"The best by {by} is {best.name}: {', '.join(figures)}.", _second(section)]


def describe_accuracy(accuracy: Accuracy | None) -> str:
    """`0.820 (0.780 to 0.850, n = 445)`, with the mean's seeds where there are several."""
    if accuracy is None:
        return "-"
    parts = []
    if accuracy.n_seeds > 1:
        parts.append(f"mean of {accuracy.n_seeds} seeds")
    if accuracy.low is not None:
        parts.append(f"{accuracy.low:.3f} to {accuracy.high:.3f}")
    parts.append(f"n = {accuracy.n:,}" if accuracy.n else "n unknown")
    return f"{accuracy.value:.3f} ({', '.join(parts)})"


def describe_selection_bias(section: ResultGroup) -> str | None:
    """`best of 4: 0.84 as seen, 0.83 corrected for the choice`."""
    if section.optimism is None:
        return None
    found, n = section.optimism
    return f"best of {n:,}: {found.value:.3f} as seen on validation, {found.corrected:.3f} corrected for the choice"


def _second(section: ResultGroup) -> str:
    """The smallest network that cannot be told apart from the best, or why there is none."""
    best, *others = section.rows
    compared = [row for row in others if row.verdict.reason is None]
    if not compared:
        return f"It was compared with none of the others: {others[0].verdict.reason}."
    close = [row for row in compared if not row.verdict.apart or row.verdict.difference > 0]
    smaller = [row for row in compared if None not in (row.macs, best.macs) and row.macs < best.macs]
    candidates = sorted((row for row in smaller if row in close), key=lambda row: (row.macs, row.rank))
    unknown = len(others) - len(compared)
    rest = f" ({plural(unknown, 'row')} could not be compared)" if unknown else ""
    if candidates:
        row = candidates[0]
        words = "that cannot be told apart from it" if not row.verdict.apart else "that is not told apart as worse"
        share = f"{row.macs / best.macs:.2g} times those of {best.name}"
        return (
            f"The smallest network {words} is {row.name} with {_macs(row)}, {share} ({_evidence(row, section)}){rest}."
        )
    if smaller:
        which = "The smaller network is" if len(smaller) == 1 else f"All {len(smaller):,} smaller networks are"
        return f"{which} told apart from it as worse on {SPLITS[section.split]}{rest}."
    size = "No network here is smaller" if None not in (best.macs, *(r.macs for r in others)) else "Costs are not known"
    if not close:
        others_are = "the other is" if len(compared) == 1 else f"all {len(compared):,} others are"
        return f"{size}, and {others_are} told apart from it as worse on {SPLITS[section.split]}{rest}."
    names = join_words([row.name for row in close], 4)
    return f"{size}; {names} cannot be told apart from it ({_evidence(close[0], section)}){rest}."


def _evidence(row: ResultRow, section: ResultGroup) -> str:
    """`difference -0.010, -0.041 to 0.021, with 445 test images; 5,100 images would be needed to see ...`."""
    found: Comparison = row.verdict
    seeds = f" and {found.seeds} seeds" if found.seeds > 1 else ""
    text = (
        f"difference {found.difference:+z.3f}, {found.low:z.3f} to {found.high:z.3f}, "
        f"with {found.n:,} {SPLITS[section.split]} images{seeds}"
    )
    if found.apart:
        return text
    enough = "images are enough" if found.needed <= found.n else "images would be needed"
    return f"{text}; {found.needed:,} {enough} to see a difference of {WANTED_DIFFERENCE:g}"


def _macs(row: ResultRow) -> str:
    return f"{compact_count(row.macs)} multiply-accumulates"


def _common_split(rows: list[ResultRow]) -> str:
    """Test where all rows have its predictions, else validation, else the one that more rows have."""
    have = {s: sum(isinstance(row.outcomes[s], CorrectnessMatrix) for row in rows) for s in ("test", "val")}
    return "val" if have["test"] < len(rows) and have["val"] > have["test"] else "test"


def _against(row: ResultRow, best: ResultRow, split: str) -> Comparison:
    """Not yet corrected for the number of rows."""
    here, there = row.outcomes[split], best.outcomes[split]
    for found, whose in ((here, ""), (there, "of the best, ")):
        if isinstance(found, str):
            return Comparison(reason=whose + found)
    if here.images != there.images:
        return Comparison(
            reason=f"its {SPLITS[split]} predictions are of other images or labels than those of the best"
        )
    pairs = [(here.seeds.index(s), there.seeds.index(s)) for s in here.seeds if s in there.seeds]
    if not pairs and len(here.seeds) == len(there.seeds) == 1:
        pairs = [(0, 0)]
    if not pairs:
        return Comparison(reason="it has no seed in common with the best")
    a = here.correct[[i for i, _ in pairs]]
    b = there.correct[[j for _, j in pairs]]
    n = a.shape[1]
    needed = sample_size_for(WANTED_DIFFERENCE, float((a != b).mean()))
    if len(pairs) == 1:
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        value, low, high = paired_difference(only_a, only_b, n)
        return Comparison(value, low, high, mcnemar(only_a, only_b), n, 1, needed)
    if n < 2:
        return Comparison(reason="one image tells nothing")
    found = two_way_difference(a, b)
    return Comparison(found.mean, found.low, found.high, found.p_value, n, len(pairs), needed)


def _optimism(section: ResultGroup) -> tuple[BiasCorrectedBest, int] | None:
    """Of the best by validation, over the rows on the same validation images, each the mean over its seeds."""
    first = section.rows[0].outcomes["val"]
    if isinstance(first, str) or section.rows[0].selected_on_test:
        return None
    each = [row.outcomes["val"] for row in section.rows]
    same = [found for found in each if not isinstance(found, str) and found.images == first.images]
    n = first.correct.shape[1]
    if len(same) < 2 or n < 2:
        return None
    means = np.stack([found.correct.mean(axis=0) for found in same])
    resamples = int(np.clip(DRAWS / means.size, 50, RESAMPLES))
    return bias_corrected_best(means, resamples), len(same)
