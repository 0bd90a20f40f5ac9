"""The wording of comparisons between two rows or runs: every sentence, table and command takes it from here."""

from math import ceil, floor, log10

from common.checks import FEWEST_SEEDS
from common.run_record import Baseline
from common.smallest_record import Pair
from common.text import SPLIT_NAMES, plural, rounded_down, rounded_up, short_name
from evaluation.choice import Evidence
from evaluation.paired_tests import PairedComparison
from evaluation.planning import Spread, images_needed, seeds_needed

LEVEL = 0.05  # of the tests


def is_of_settings(pair: PairedComparison) -> bool:
    """Return whether a pair has enough seeds to compare settings, and not only these trained networks."""
    return pair.n_seeds >= FEWEST_SEEDS


def difference(pair: PairedComparison) -> str:
    """Return `0.012 below`, `0.003 above` or `no difference`."""
    size = f"{abs(pair.difference):.3f}"
    return "no difference" if float(size) == 0 else f"{size} {'below' if pair.difference < 0 else 'above'}"


def at_most(pair: PairedComparison) -> str:
    """Return `at most 0.031 below`, the one-sided 95% bound, rounded so that it does not flatter."""
    below = rounded_up(-pair.at_least)
    return f"at most {below} below" if float(below) > 0 else "not below"


def always_predicting(baselines: dict[str, Baseline], *, with_splits: bool = True) -> str:
    """Return `always predicting 'cat' gives 0.500 on validation and 0.520 on test`; "" without baselines."""
    found, before = [], None
    for split, guess in baselines.items():
        name = "" if guess.name == before else f"'{short_name(guess.name)}' gives "
        found.append(f"{name}{guess.share:.3f}{f' on {SPLIT_NAMES[split]}' if with_splits else ''}")
        before = guess.name
    return f"always predicting {' and '.join(found)}" if found else ""


def measured_on(n: int, split: str, n_seeds: int) -> str:
    """Return `with 445 test images and 3 seeds`."""
    return f"with {plural(n, f'{SPLIT_NAMES[split]} image')} and {plural(n_seeds, 'seed')}"


def confidence(level: float) -> str:
    """Return `(95%)`, or `(97.5%)` if a level of 0.05 was divided by two tests."""
    return f"({100 * (1 - level):.4g}%)"


def evidence(pair: PairedComparison, split: str, shown: bool, *, differs: bool | None = None, tests: int = 1) -> str:
    """Return the difference, its bound and what it was measured on; if good enough is not shown, also what would decide.

    Args:
        pair: the row that could be good enough against the reference.
        shown: whether the row counts as good enough.
        differs: whether the row counts as worse; None: its own interval decides.
        tests: number of rows that could have been shown to be good enough, for which the level is corrected.
    """
    on = measured_on(pair.n, split, pair.n_seeds)
    if shown:
        return f"{difference(pair)}, {at_most(pair)} (95%) {on}"
    if pair.high < -pair.margin and differs in (True, None):
        return f"{difference(pair)}, at least {rounded_down(-pair.high)} below (95%) {on}"
    if pair.margin_p_value < LEVEL:
        by_itself = (
            f"{difference(pair)}, by itself {at_most(pair)} (95%) {on}, which is not enough with {tests} rows tested"
        )
        return f"{by_itself}; {what_would_decide(pair, split, tests)}"
    bound = at_most(pair).removeprefix("at most ")
    decide = what_would_decide(pair, split, tests)
    return f"{difference(pair)}, and up to {bound} cannot be excluded (95%) {on}; {decide}"


def what_would_decide(pair: PairedComparison, split: str, tests: int = 1) -> str:
    """Say how many images or seeds would show that the row is good enough, with a power of 0.8.

    The true difference is taken to be the observed one, but not above 0.

    Args:
        tests: number of tests for which the level is corrected.
    """
    gap, level = pair.margin + min(pair.difference, 0.0), LEVEL / tests
    if gap <= 0:
        return f"the difference is not within {pair.margin:g}, so more images will not help unless it shrinks"
    if images := _images(pair.spread, gap, pair.n, pair.n_seeds, level, split):
        supposed = "if the difference stays" if pair.difference < 0 else "if they are equally good"
        return f"{supposed}, {images} would decide"
    if pair.n_seeds == 1:
        return "the difference is too close to the margin for any number of images"
    unknown = f"{pair.n_seeds} seeds do not show how much seeds differ, so more images may not decide it"
    return f"{unknown}; {_seeds(pair.spread, gap, pair.n, level) or 'more seeds and images'} would"


def evidence_of_target(found: Evidence, split: str) -> str:
    """Return the accuracy with its one-sided bound; if the bound is not above the target, also what would decide."""
    on = f"{confidence(found.level)} {measured_on(found.n, split, found.n_seeds)}"
    bound = rounded_down(found.at_least)
    if found.shown:
        return f"{found.own:.3f}, at least {bound} {on}"
    text = f"{found.own:.3f}, and down to {bound} cannot be excluded {on}"
    if found.gap <= 0:
        return text
    decide = would_decide(found, split)
    nothing = "the accuracy is too close to the target for any number of images"
    return f"{text}; {f'if it stays, {decide} would decide' if decide else nothing}"


def would_decide(found: Evidence, split: str) -> str | None:
    """Return `about 610 test images`, which would show it with a power of 0.8 if the value stays; None: nothing would."""
    if found.shown or found.gap <= 0:
        return None
    images = _images(found.spread, found.gap, found.n, found.n_seeds, found.level, split)
    if images or found.n_seeds == 1:
        return images
    return _seeds(found.spread, found.gap, found.n, found.level) or "more seeds and images"


def as_pair(found: Evidence, split: str) -> Pair:
    """Return the evidence on the chosen candidate in the form that smallest.json keeps."""
    return Pair(
        split=split,
        difference=found.value,
        at_least=found.at_least,
        p_value=found.p_value,
        n=found.n,
        n_seeds=found.n_seeds,
        of_settings=found.of_settings,
        smallest_margin=found.smallest_margin,
        would_decide=would_decide(found, split),
        level=found.level,
    )


def _images(spread: Spread, gap: float, n: int, n_seeds: int, level: float, split: str) -> str | None:
    """Return `about 610 test images`; None if more images cannot decide."""
    images = images_needed(spread, gap, n_seeds, level)
    return images and f"about {_rounded(max(images, n + 1))} {SPLIT_NAMES[split]} images"


def _seeds(spread: Spread, gap: float, n: int, level: float) -> str | None:
    """Return `about 8 seeds with these images`; None if more seeds on these images cannot decide."""
    seeds = seeds_needed(spread, gap, n, level)
    return seeds and f"about {seeds} seeds with these images"


def verdict(pair: PairedComparison, p_value: float, shown: bool) -> str:
    """Return how a row compares with the best: worse, better, good enough, or not decided.

    Args:
        p_value: for equal accuracy, after Holm's correction over the table.
        shown: whether it is shown to be good enough.
    """
    differs = p_value < LEVEL
    if differs and pair.difference > 0:
        text = "better"
    elif differs:
        text = "worse but good enough" if shown else "worse"
    elif shown:
        text = "good enough"
    else:
        return "not decided"
    return text if is_of_settings(pair) else f"{text} as trained"


def _rounded(number: int) -> str:
    """Return a number rounded up to two digits, which is as exact as a plan gets."""
    step = 10 ** max(0, floor(log10(number)) - 1)
    return f"{ceil(number / step) * step:,}"
