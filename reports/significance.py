"""Which row is the best, how the others compare with it, and the smallest network that is good enough; in sentences."""

from statistics import fmean

import numpy as np

from common.checks import FEWEST_SEEDS
from common.text import SPLIT_NAMES, compact_count, format_interval, join_words, plural, rounded_down
from evaluation.choice import Finalist, Rule, measure, prove
from evaluation.paired_tests import bias_corrected_best, compare_pair, holm, holm_against_best, mcnemar
from reports.accuracy import Accuracy, CorrectnessMatrix
from reports.report_data import Choice, Comparison, ResultGroup, ResultRow
from reports.wording import LEVEL, always_predicting, evidence, evidence_of_target, is_of_settings

RESAMPLES = 1000
MOST_ON_TEST = 4  # rows that are named because only test images measured them
FAR = 0.05  # accuracy by which a seed is below all others of its row, and 3 times as far as they are apart
FAR_SD = 4.5  # and so many times as far as seeds of rows without such a seed typically differ (SD)
MONITORS = ("balanced_accuracy", "f1", "auroc")  # metrics that can choose epochs in place of accuracy
MUCH = 0.25  # share of the error rate: seeds with at least this standard deviation have skewed accuracies
DRAWS = 4_000_000_000  # resamples x images x rows, about a second


def compare_to_best(group: ResultGroup, margin: float) -> None:
    """Set each row's comparison with the best, and the group's choice and selection bias.

    Every sentence and table takes a pair's numbers from here. There are two families of tests, each at 5%:

    - Does a row differ? The p-values are Holm-corrected over all rows, and also for the choice of the best if these
      measurements chose it.
    - Is a smaller network good enough? Test images have to show it. With one seed, the row that validation chose is tested
      first and by itself, because test chose nothing; only if it passes are the others tested, Holm-corrected. With several
      seeds all are Holm-corrected: validation then tends to choose the row with lucky seeds, whose networks are as lucky on
      test. So more rows do not make it likelier that a bad one passes.

    Args:
        group: its rows get a `comparison`; `split`, `margin`, `choice` and `selection_bias` are set.
        margin: how far below the best is good enough.
    """
    group.split, group.margin = _common_split(group.rows), margin
    best, *others = group.rows
    reason = "no better than guessing" if best.guesses else "the best" if best.ranked_by else "no accuracy"
    best.comparison = Comparison(reason=reason)
    found = [_compare(row.outcomes[group.split], best.outcomes[group.split], group.split, margin) for row in others]
    # With one seed, test images chose nothing; with several, the networks were lucky on validation and test alike
    group.chose_best = group.split == "val" or best.selected_on_test or any(p.pair.n_seeds > 1 for p in found if p.pair)
    correct = holm_against_best if group.chose_best else holm
    corrected = iter(correct([each.pair.p_value for each in found if each.pair]))
    for row, comparison in zip(others, found, strict=True):
        row.comparison = comparison._replace(p_value=next(corrected)) if comparison.pair else comparison
    group.choice = _choose(group)
    _show(group)
    group.selection_bias = _selection_bias(group)


def answer(group: ResultGroup) -> list[str]:
    """Answer in sentences: which row is the best, which smaller network is good enough, and what is compared."""
    if group.study and group.study.has_own_answer:
        return group.study.read_own_answer()
    best, *others = group.rows
    unranked = [row for row in group.rows if row.ranked_by is None and row.accuracies["test"]]
    on_test_only = _on_test_only(unranked, group)
    if best.ranked_by is None and on_test_only:
        return on_test_only
    if best.ranked_by is None:
        costs = sorted((row for row in group.rows if row.macs is not None), key=lambda row: row.macs)
        smallest = f" The smallest network is {costs[0].name} with {_macs(costs[0])}." if costs else ""
        return [f"No accuracies were measured, only costs, so no row is the best.{smallest}"]
    by = "test, which also chose its epoch (so this accuracy is too good)," if best.selected_on_test else "validation"
    results = [] if best.selected_on_test else [f"{describe_accuracy(best.ranked_by)} on validation"]
    test = best.accuracies["test"]
    if test:
        results.append(f"{describe_accuracy(test)} on test")
    has = f"accuracy {join_words(results)}{'' if test else ' (not evaluated on test)'}"
    shown = [*best.baselines.items()][0 if best.guesses else -1 :]  # the row guesses on one of the splits
    if always := always_predicting(dict(shown), with_splits=best.guesses):
        has += f"; {always}"
    which = best.name if others else "it"
    apart = [f"Yet {which} tells classes apart: {found}."] if best.guesses and (found := best.tells_apart) else []
    better = f"shown to be better than guessing{_where_guessing(group)}" if best.guesses else ""
    if best.guesses and others:
        ranked = "" if all(row.guesses for row in unranked) else " that validation ranks"
        first = f"No row{ranked} is {better}: the first by {by} is {best.name} with {has}."
        return [first, *apart, *on_test_only, *_far_below(group)]
    if not others:
        chosen = " The test images also chose its epoch, so this accuracy is too good." if best.selected_on_test else ""
        guess = [f"It is not {better}.", *apart] if best.guesses else _above_target(group)
        where = "that finished" if group.n_unfinished else "here"
        return [
            f"{best.name} has {has}.{chosen}",
            *guess,
            f"It is the only setting {where}, so there is nothing to compare it with.",
            *_far_below(group),
        ]
    first = f"The best by {by} is {best.name}: {has}."
    further = [*_without_costs(group), *_of_networks(group), *_far_below(group), *_by_monitor(group)]
    return [first, _good_enough(group), *_above_target(group), *on_test_only, *further]


def _where_guessing(group: ResultGroup) -> str:
    """Return ` on validation` if all rows guess only there; the numbers of the other split would seem to contradict."""
    common = set.intersection(*(set(row.guesses_on) for row in group.rows if row.guesses_on))
    measured = [split for split in group.rows[0].baselines if group.rows[0].accuracies[split]]
    if len(measured) in (1, len(common)):
        return ""
    return f" on {SPLIT_NAMES[common.pop()]}" if common else " on both validation and test"


def _on_test_only(rows: list[ResultRow], group: ResultGroup) -> list[str]:
    """Give the accuracy of rows that validation cannot rank, such as those of checkpoints that were only evaluated."""
    if not rows:
        return []
    found = []
    for row in rows:
        guesses = ", not shown to be better than guessing" if row.guesses else ""
        found.append(f"{row.name} has accuracy {describe_accuracy(row.accuracies['test'])}{guesses}")
    texts = [join_words(found, MOST_ON_TEST)]
    if group.rows[0].ranked_by is None or "test" not in group.rows[0].baselines:  # else the first sentence has it
        texts.append(always_predicting(rows[0].baselines, with_splits=False))
    which = "Evaluated on test only, so not ranked" if len(group.rows) > 1 else "Evaluated on test only"
    return [f"{which}: {'; '.join(filter(None, texts))}."]


def describe_accuracy(accuracy: Accuracy) -> str:
    """Return `0.820 (0.780 to 0.850, n = 445)`, with the number of seeds if there are several."""
    parts = []
    if accuracy.n_seeds > 1:
        parts.append(f"mean of {accuracy.n_seeds} seeds")
    if accuracy.low is not None:
        parts.append(format_interval(accuracy.low, accuracy.high))
    parts.append(f"n = {accuracy.n:,}" if accuracy.n else "n unknown")
    return f"{accuracy.value:.3f} ({', '.join(parts)})"


def describe_selection_bias(group: ResultGroup) -> str | None:
    """Return the best row's accuracy as measured and corrected for its choice, as a sentence without a period."""
    if group.selection_bias is None:
        return None
    found, n = group.selection_bias
    return (
        f"the best of {n:,} was chosen by its validation accuracy, which flatters it: {found.value:.3f} as measured, "
        f"{found.corrected:.3f} corrected for the choice of the row (not of the epoch)"
    )


def _good_enough(group: ResultGroup) -> str:
    """Name the smallest network that is shown to be good enough, or say what is missing."""
    best, *others = group.rows
    within = f"(at most {group.margin:g} below {best.name})"
    if best.macs is None or all(row.macs is None for row in others):
        costs = f"The cost of {best.name} is" if any(row.macs is not None for row in others) else "Costs are"
        return f"{costs} not known, so no smaller network can be named."
    smaller = [row for row in others if row.macs is not None and row.macs < best.macs]
    if not smaller:
        return "No other network here is smaller."
    if best.selected_on_test:
        return "Since the test images chose the epochs, they cannot show that a smaller network is good enough."
    which = "The smaller network" if len(smaller) == 1 else f"All {len(smaller):,} smaller networks"
    if all(row.guesses for row in smaller):
        return f"{which} {'is' if len(smaller) == 1 else 'are'} no better than guessing."
    shown = group.named_row is not best
    if group.choice is None and not shown:
        able = next(row for row in smaller if not row.guesses)
        reason = able.comparison.reason or "validation predictions are missing"
        return f"{which} {'was' if len(smaller) == 1 else 'were'} not compared with the best: {reason}."
    row = group.named_row if shown else group.choice.row
    size = f"{row.name} with {_macs(row)}, {row.macs / best.macs:.2g} times as many as {best.name}"
    pair = row.comparison.pair
    if group.split != "test" or pair is None:
        found = evidence(group.choice.on_validation, "val", group.choice.within)
        if pair and (n_folds := row.comparison.n_folds):
            size += f", on the {plural(n_folds, 'fold')} that both have"
        return (
            f"Chosen on validation, not proved: {size}: {found}. Only test images, which played no part in the choice, could "
            f"show that it is good enough {within}."
        )
    if not is_of_settings(pair) and row.comparison.n_unused_seeds:  # the row above has the mean of all
        seeds = [str(seed) for seed in row.outcomes["test"].seeds if seed in best.outcomes["test"].seeds]
        size += f", trained with {'seed' if len(seeds) == 1 else 'seeds'} {join_words(seeds)}"
    found = evidence(pair, "test", shown, differs=row.comparison.p_value < LEVEL, tests=group.n_tests)
    trained = "" if is_of_settings(pair) else " as trained"
    if shown:
        how = "chosen on validation, shown on test"
        if group.choice is None or row is not group.choice.row:
            how = "shown on test, which also chose it, so its test accuracy is a little too good"
        return f"The smallest network shown to be good enough{trained} {within} is {size}; {how}: {found}."
    nearest = "The one chosen on validation" if group.choice.within else "The nearest on validation"
    if len(smaller) == 1:
        nearest = "The only smaller one"
    return f"No smaller network is shown to be good enough {within}. {nearest} is {size}: on test {found}."


def _above_target(group: ResultGroup) -> list[str]:
    """Name the smallest network whose own bound is above the target, chosen on validation and shown on test."""
    if group.target is None:
        return []
    rule, found = Rule(group.margin, group.target), []
    for row in group.rows:
        val = row.outcomes["val"]
        if row.macs is not None and isinstance(val, CorrectnessMatrix) and not row.guesses:
            finalist = Finalist(row.macs, val.correct, val.seeds)
            found.append((row, measure(finalist, finalist, rule, groups=val.groups)))
    if not found or group.selected_on_test:
        why = "costs or validation predictions are missing"
        if group.selected_on_test:
            why = "the test images chose the epochs"
        return [f"No network can be chosen for the target of {group.target:g}: {why}."]
    within = [(row, on_val) for row, on_val in found if on_val.shown]
    if within:
        row, on_val = min(within, key=lambda each: (each[0].macs, each[0].rank))
    else:
        row, on_val = max(found, key=lambda each: (each[1].at_least, -each[0].macs))
    which = "The smallest by validation" if within else "The nearest on validation"
    size, test = f"{row.name} with {_macs(row)}", row.outcomes["test"]
    if not isinstance(test, CorrectnessMatrix):
        found = evidence_of_target(on_val, "val")
        return [f"Chosen on validation, not proved to be above {group.target:g}: {size}: {found}."]
    finalist = Finalist(row.macs, test.correct, test.seeds)
    proof = prove(finalist, finalist, rule, groups=test.groups, n_finalists=len(found) - 1, raced=[])
    on_test = evidence_of_target(proof.evidence, "test")
    if proof.verdict != "shown" and len(test.seeds) > 1:  # the row above has the mean of all
        size += f", trained with seed {proof.seed}"
    if proof.verdict == "not_shown":
        return [f"No network is shown to be above {group.target:g}. {which} is {size}: on test {on_test}."]
    trained = "" if proof.verdict == "shown" else " as trained"
    how = f"chosen on validation, shown on test: {on_test}"
    if proof.verdict == "shown" and len(found) == 1:  # of several the level is divided
        how += _few_that_differ(test.correct.mean(axis=1))
    return [f"The smallest network shown to be above {group.target:g}{trained} is {size}; {how}."]


def _few_that_differ(accuracies: np.ndarray) -> str:
    """Warn if seeds differ so much that their accuracies are skewed: most above the mean, few far below (docs/limits.md)."""
    deviation, errors = float(accuracies.std(ddof=1)), 1 - float(accuracies.mean())
    if deviation < MUCH * errors:
        return ""
    return (
        f". Its seeds differ by {deviation:.3f} (SD), which is much for an error rate of {errors:.3f}: with so few seeds, "
        "such a claim is wrong in up to 0.12 of cases, not in 0.05"
    )


def _without_costs(group: ResultGroup) -> list[str]:
    """Name the rows that may be smaller than the best, since their costs are not known."""
    best, *others = group.rows
    unknown = [row.name for row in others if row.macs is None]
    if best.macs is None or len(unknown) in (0, len(others)):  # then no row can be called smaller
        return []
    return [
        f"The cost{'s' * (len(unknown) > 1)} of {join_words(unknown, 4)} {'is' if len(unknown) == 1 else 'are'} not known."
    ]


def _of_networks(group: ResultGroup) -> list[str]:
    """Say that only trained networks are compared, not settings, if pairs have fewer than three seeds in common."""
    pairs = [row.comparison.pair for row in group.rows if row.comparison.pair]
    few = [pair.n_seeds for pair in pairs if not is_of_settings(pair)]
    if not few:
        return []
    if len(few) < len(pairs):
        return [
            f"{len(few)} of {len(pairs)} rows have fewer than {FEWEST_SEEDS} seeds in common with the best; for these rows, "
            "trained networks are compared, not settings."
        ]
    seeds, how = ("one seed" if min(few) == 1 else "two seeds"), "use seeds=3 or more"
    if any(row.comparison.n_unused_seeds for row in group.rows):  # the table shows how many seeds each row has
        seeds, how = f"{seeds} in common with the best", f"run {FEWEST_SEEDS} or more of the same seeds for each"
    else:
        seeds += " per setting"
    return [
        f"With {seeds}, these trained networks are compared, not the settings: other seeds may reverse the order. To "
        f"compare settings, {how}."
    ]


def _far_below(group: ResultGroup) -> list[str]:
    """Say which rows have one seed far below all others: its training may have failed, which few seeds seldom show.

    Seeds of one row may by chance be close to each other, so how much those of the other rows differ counts as well, unless one
    of these is far below, too. If seeds are normally distributed (SD of 0.015), any of 12 rows with 3 seeds is named in at most
    0.06 of cases; without the other rows in 0.23.
    """
    found, deviations = [], []
    for row in group.rows:
        right = row.outcomes[group.split]
        if not isinstance(right, CorrectnessMatrix) or len(right.seeds) < FEWEST_SEEDS:
            continue
        accuracies = right.correct.mean(axis=1)
        lowest, next_one, *_, highest = np.argsort(accuracies)
        low, next_low, high = accuracies[[lowest, next_one, highest]]
        only = [int((right.correct[a] & ~right.correct[b]).sum()) for a, b in ((next_one, lowest), (lowest, next_one))]
        if next_low - low >= max(FAR, 3 * (high - next_low)) and mcnemar(*only) < 0.01:
            found.append((row.name, right.seeds[lowest], next_low - low, len(right.seeds)))
        else:
            deviations.append(accuracies.std(ddof=1))
    least = FAR_SD * np.median(deviations) if deviations else 0.0
    found = [each for each in found if each[2] >= least]
    if not found:
        return []
    name, seed, below, n_seeds = found[0]
    more = f" The same is true of a seed of {plural(len(found) - 1, 'other row')}." if len(found) > 1 else ""
    return [
        f"Seed {seed} of {name} is at least {rounded_down(below)} below its {n_seeds - 1} other seeds on "
        f"{SPLIT_NAMES[group.split]}. Its training may have failed; few seeds do not show how often that happens.{more}"
    ]


def _by_monitor(group: ResultGroup) -> list[str]:
    """Say that rows are ranked by accuracy if another metric chose their epochs, and which row is the first by that one."""
    chosen = {row.name: [run.record.best for run in row.runs if run.record.best] for row in group.rows}
    monitors = {str(each.monitor) for found in chosen.values() for each in found}
    monitor = monitors.pop() if len(monitors) == 1 else ""
    if monitor.partition("/")[2] not in MONITORS:
        return []
    means = {name: fmean(each.value for each in found) for name, found in chosen.items()
             if found and all(each.value is not None for each in found)}  # fmt: skip
    first = max(means, key=means.get, default=None)
    by = "" if first is None else f" The first by {monitor} is {first} with {means[first]:.3f}, which is not tested."
    return [f"Epochs were chosen by {monitor}, but rows are ranked and compared by accuracy.{by}"]


def _macs(row: ResultRow) -> str:
    return f"{compact_count(row.macs)} multiply-accumulates"


def _common_split(rows: list[ResultRow]) -> str:
    """Return test if all rows have its predictions, else the split for which more rows have them."""
    have = {s: sum(isinstance(row.outcomes[s], CorrectnessMatrix) for row in rows) for s in SPLIT_NAMES}
    return "val" if have["test"] < len(rows) and have["val"] > have["test"] else "test"


def _compare(row: CorrectnessMatrix | str, best: CorrectnessMatrix | str, split: str, margin: float) -> Comparison:
    """Compare a row with the best, not yet corrected for the number of rows."""
    for found, whose in ((row, ""), (best, "for the best, ")):
        if isinstance(found, str):
            return Comparison(reason=whose + found)
    n_folds = None
    if row.images_of and best.images_of:
        if not (folds := row.images_of.keys() & best.images_of.keys()):  # as after failed runs
            return Comparison(reason="it has no fold in common with the best")
        row, best = row.only(folds), best.only(folds)
        if len(folds) < max(row.n_measured[1], best.n_measured[1]):  # the table has means over all
            n_folds = len(folds)
    if row.images != best.images:
        return Comparison(reason=f"its {SPLIT_NAMES[split]} images or labels differ from those of the best")
    pairs = [(row.seeds.index(seed), best.seeds.index(seed)) for seed in row.seeds if seed in best.seeds]
    n_seeds = max(len(row.seeds), len(best.seeds), row.n_measured[0], best.n_measured[0])
    if not pairs and n_seeds == 1:
        pairs = [(0, 0)]
    if not pairs:
        return Comparison(reason="it has no seed in common with the best")
    a = row.correct[[i for i, _ in pairs]]
    b = best.correct[[j for _, j in pairs]]
    if len(pairs) > 1 and a.shape[1] < 2:
        return Comparison(reason="one image is too few")
    unused = n_seeds - len(pairs)
    groups = best.groups if row.groups is None else row.groups
    return Comparison(pair=compare_pair(a, b, margin, groups), n_unused_seeds=unused, n_folds=n_folds)


def _choose(group: ResultGroup) -> Choice | None:
    """Choose on validation the cheapest row whose bound is within the margin; if there is none, the one with the best bound."""
    best, *others = group.rows
    if best.ranked_by is None or best.macs is None or best.selected_on_test or best.guesses:
        return None
    found = []
    for row in others:
        if row.macs is not None and row.macs < best.macs and not row.guesses:
            pair = _compare(row.outcomes["val"], best.outcomes["val"], "val", group.margin).pair
            if pair:
                found.append(Choice(row, pair, pair.margin_p_value < LEVEL))
    within = [each for each in found if each.within]
    if within:
        return min(within, key=lambda each: (each.row.macs, each.row.rank))
    return max(found, key=lambda each: (each.on_validation.at_least, -each.row.macs), default=None)


def _show(group: ResultGroup) -> None:
    """Mark the rows that the test images show to be good enough; if any are smaller than the best, test only those."""
    best, *others = group.rows
    rows = [row for row in others if row.comparison.pair and not row.guesses]
    if group.split != "test" or best.selected_on_test or best.guesses:
        return
    if any(smaller := [best.macs is not None and row.macs is not None and row.macs < best.macs for row in rows]):
        rows = [row for row, is_smaller in zip(rows, smaller, strict=True) if is_smaller]
    group.n_tests = len(rows)
    if group.choice and group.choice.row in rows and all(row.comparison.pair.n_seeds == 1 for row in rows):
        group.n_tests, chosen = 1, group.choice.row
        if chosen.comparison.pair.margin_p_value >= LEVEL:
            return
        chosen.comparison = chosen.comparison._replace(shown=True)
        rows = [row for row in rows if row is not chosen]
    for row, p_value in zip(rows, holm([row.comparison.pair.margin_p_value for row in rows]), strict=True):
        row.comparison = row.comparison._replace(shown=p_value < LEVEL)


def _selection_bias(group: ResultGroup) -> tuple | None:
    """Correct the best row's validation accuracy for its choice among the rows on the same images, as means over seeds."""
    first = group.rows[0].outcomes["val"]
    if isinstance(first, str) or group.selected_on_test or group.rows[0].guesses:
        return None
    each = [row.outcomes["val"] for row in group.rows if not row.guesses]  # which are never the best
    same = [found for found in each if not isinstance(found, str) and found.images == first.images]
    n = first.correct.shape[1]
    if len(same) < 2 or n < 2:
        return None
    means = np.stack([found.correct.mean(axis=0) for found in same])
    resamples = int(np.clip(DRAWS / means.size, 50, RESAMPLES))
    return bias_corrected_best(means, resamples, groups=first.groups), len(same)
