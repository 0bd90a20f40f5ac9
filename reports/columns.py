"""The tables of a report: columns and cells, the same on the page and in Markdown, LaTeX and on the screen."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import numpy as np

from common.run_record import Deployed, ExportCost, Proportion
from common.table import Cell, Column, Table
from common.text import (
    SPLIT_NAMES,
    clean,
    compact_count,
    duration,
    file_size,
    format_interval,
    join_words,
    milliseconds,
    numeral,
    plural,
)
from evaluation.paired_tests import format_p
from reports.accuracy import Accuracy, CorrectnessMatrix, caveats_of_one_seed
from reports.report_data import (
    BestOfValue,
    Comparison,
    Grid,
    GridLine,
    ResultGroup,
    ResultRow,
    SettingComparison,
    by_settings,
    value_name,
)
from reports.wording import always_predicting

LONGEST_ERROR = 120  # characters
NOTE = "Each accuracy has its 95% interval, and ± its standard deviation over seeds if there are several. "
CHOSE_EPOCHS = "Validation images also chose the epochs, which flatters validation accuracies. "
COMPARISON_NOTE = (
    "The difference is from the best row's {split} accuracy, on the same images and seeds, with its 95% interval. {verdicts}"
    "p: the p-value for equal accuracy, Holm-corrected for {m}{choice}. "
)
VERDICT_NOTE = (
    "Good enough: shown on test images to be at most {margin:g} below the best, corrected for the number of rows tested. At "
    "most: the one-sided 95% bound of each row by itself, not corrected. "
)
COST_NOTE = "Costs are for one image; MACs are multiply-accumulates."


def result_table(group: ResultGroup, *, for_paper: bool = False) -> Table:
    """Make the table of a group, one line per row; for a paper with p-values instead of verdicts in words."""
    rows = group.rows
    places = {id(row): place for place, row in enumerate(sorted(rows, key=by_settings))}
    title = "setting" if group.changed else "network"
    columns = [Column("#", lambda row: Cell(str(row.rank), row.rank))]
    columns.append(Column(title, lambda row: Cell(row.name, places[id(row)]), is_text=True))
    columns += [*_training_images(rows), *_accuracies(rows), *_further_metrics(rows)]
    if len(rows) > 1 and any(row.ranked_by for row in rows):
        columns.append(Column("difference", lambda row: difference_cell(row.comparison)))
        columns.append(Column("p", _p_value) if for_paper else Column("verdict", comparison_cell, is_text=True))
    columns += [
        Column("MACs", lambda row: Cell(compact_count(row.macs), row.macs)),
        Column("parameters", lambda row: Cell(compact_count(row.parameters), row.parameters)),
        Column("latency p50", lambda row: Cell(milliseconds(row.latency_p50_ms), row.latency_p50_ms)),
        Column("time per run", lambda row: Cell(duration(row.wall_time_s), row.wall_time_s)),
        Column("seeds", lambda row: Cell(str(len(row.seeds)), len(row.seeds))),
        Column("folds", _folds),
    ]
    return Table.filled(columns, rows)


EXPORT_NOTE = (
    "The trained networks as files that run elsewhere; with several seeds, means. Accuracies are on validation images; the "
    "cost is the checkpoint's accuracy minus the file's on the same images, with its paired 95% interval; the balanced cost "
    "that of balanced accuracy, in which each class counts the same. Latency is for one image on one thread, from its pixels "
    "to its probabilities."
)


def failed_exports(group: ResultGroup) -> list[str]:
    """Return why files were not written: `1. keep=4: no file as onnx_int8: REASON`, each reason of a row once."""
    files = [(row, each) for row in group.rows for each in row.deployed if each.error]
    found = [f"{row.rank}. {row.name}: no file as {clean(each.format, 40)}: {clean(each.error)}" for row, each in files]
    return list(dict.fromkeys(found))


def export_table(group: ResultGroup) -> Table | None:
    """Make the table of the exported networks; None if no run was asked to export one."""
    rows = [row for row in group.rows if row.deployed]
    if not rows:
        return None
    columns = [
        Column("#", lambda row: Cell(str(row.rank), row.rank)),
        Column("network", lambda row: Cell(row.name, row.name), is_text=True),
        Column("exported as", _exported_as, is_text=True),
        *file_columns(lambda row: row.files),
        Column("latency p50", lambda row: _mean_of(row.files, _reliable_ms, milliseconds)),
    ]
    return Table.filled(columns, rows)


def file_columns(files_of: Callable[..., list[Deployed]]) -> list[Column]:
    """Make the columns of what was measured of the files of a row, of one format; of several files the mean."""
    cells = {
        "accuracy": _accuracy_as_exported,
        "cost": _export_costs,
        "verdict": _export_verdict,
        "balanced cost": partial(_export_costs, balanced=True),
        "largest difference": _largest_difference,
        "size": lambda files: _mean_of(files, lambda each: each.bytes, file_size),
    }
    return [
        Column(name, lambda row, fill=fill: fill(files_of(row)), is_text=name == "verdict")
        for name, fill in cells.items()
    ]


def setting_table(comparison: SettingComparison) -> Table:
    """Make the table of one setting, one line for the best row of each value."""
    columns = [
        Column(comparison.setting, lambda best: setting_cell(best.value, best.name), is_text=True),
        Column("#", lambda best: Cell(str(best.row.rank), best.row.rank)),
        Column("with", lambda best: Cell(best.others, best.others), is_text=True),
    ]
    for title, fill, _ in _accuracies([best.row for best in comparison.bests]):
        columns.append(Column(title, lambda best, fill=fill: fill(best.row)))
    columns += [
        Column("chosen from", _chosen_from),
        Column("difference", lambda best: difference_cell(best.comparison)),
        Column("verdict", lambda best: comparison_cell(best.row), is_text=True),
    ]
    return Table.filled(columns, comparison.bests)


def grid_table(grid: Grid) -> Table:
    """Make the table of two settings: one line per value of the first, one column per value of the second."""
    with_n = len({row.ranked_by.n for line in grid.lines for row in line.rows if row}) > 1

    def fill(line: GridLine, place: int) -> Cell:
        row = line.rows[place]
        return accuracy_cell(row and row.ranked_by, with_n)._replace(best=place == line.best)

    columns = [
        Column(
            f"{grid.down} \\ {grid.across}",
            lambda line: setting_cell(line.value, value_name(grid.down, line.value)),
            is_text=True,
        )
    ]
    columns += [
        Column(value_name(grid.across, value), partial(fill, place=place)) for place, value in enumerate(grid.values)
    ]
    return Table(columns, [[column.fill(line) for column in columns] for line in grid.lines])


def accuracy_cell(accuracy: Accuracy | None, with_n: bool) -> Cell:
    """Return `0.651 ± 0.013 (0.617 to 0.684)`."""
    if accuracy is None:
        return Cell("-", None)
    spread = "" if accuracy.standard_deviation is None else f" ± {accuracy.standard_deviation:.3f}"
    details = [] if accuracy.low is None else [format_interval(accuracy.low, accuracy.high)]
    details += [f"n = {accuracy.n:,}"] if with_n and accuracy.n else []
    return Cell(f"{accuracy.value:.3f}{spread}", accuracy.value, ", ".join(details))


def setting_cell(text: str, name: str) -> Cell:
    """Return `keep=4`, sorted by the value as a number if it is one."""
    value = numeral(text)
    return Cell(name, text if value is None else value)


def difference_cell(found: Comparison) -> Cell:
    """Return `-0.031 (-0.062 to 0.001)`."""
    if found.pair is None:
        return Cell("-", 0.0 if found.is_best else None)
    pair = found.pair
    return Cell(f"{pair.difference:+z.3f}", pair.difference, format_interval(pair.low, pair.high))


def comparison_cell(row: ResultRow) -> Cell:
    """Return `not decided (at most 0.031 below, p = 0.12)`, or why there is no comparison."""
    found = row.comparison
    if found.pair is None:
        return Cell(found.verdict, 1.0 if found.is_best else None)
    guess = "no better than guessing; " if row.guesses else ""
    return Cell(f"{guess}{found.verdict}", found.pair.at_least, found.details)


def _p_value(row: ResultRow) -> Cell:
    if row.comparison.pair is None:
        return Cell("-", None)
    p_value = row.comparison.p_value
    return Cell(format_p(p_value).removeprefix("p ").removeprefix("= "), p_value)


def note(group: ResultGroup, *, for_paper: bool = False) -> str:
    """Explain the numbers of a group's table; `for_paper` as of `result_table`."""
    if not any(any(row.accuracies.values()) for row in group.rows):
        return COST_NOTE
    tests = sum(row.comparison.pair is not None for row in group.rows)
    text = NOTE if group.selected_on_test else NOTE + CHOSE_EPOCHS
    if tests:
        m = plural(tests, "comparison")
        choice = (
            " and for the choice of the best row by the same measurements" if group.chose_best and tests > 1 else ""
        )
        verdicts = "" if for_paper else VERDICT_NOTE.format(margin=group.margin)
        text += COMPARISON_NOTE.format(split=SPLIT_NAMES[group.split], verdicts=verdicts, m=m, choice=choice)
    for split, name in SPLIT_NAMES.items():
        found = [
            row.outcomes[split].groups for row in group.rows if isinstance(row.outcomes.get(split), CorrectnessMatrix)
        ]
        numbers = {len(np.unique(each)) for each in found if each is not None}
        if len(numbers) == 1:
            text += f"The {name} images form {numbers.pop():,} groups, which intervals and tests take into account. "
    text += COST_NOTE
    if always := always_predicting(group.rows[0].baselines):
        text += f" {always[0].upper()}{always[1:]}."
    found = [each for row in group.rows for each in row.accuracies.values() if each and each.n]
    single = [(each.value, each.n) for each in found if each.n_seeds == 1]
    text += "".join(f" {caveat.capitalize()}." for caveat in caveats_of_one_seed(single))
    if any(each.n_seeds in (2, 3) and each.standard_deviation > (1 - each.value) / 2 for each in found):
        text += " Where two or three seeds differ by more than half of the error rate, the interval may cover only 91%."
    if group.split == "val" and tests:
        text += " The best row was chosen on these validation images, which flatters it."
        reasons = [each for row in group.rows if isinstance(each := row.outcomes["test"], str)]
        if len(reasons) < len(group.rows):
            text += (
                f" Test images are not compared, because the predictions of {len(reasons):,} of {len(group.rows):,} rows "
                f"cannot be used: {clean(reasons[0])}."
            )
    text += "".join(f" Accuracies {clean(caveat)}." for caveat in group.rows[0].data.caveats)
    if group.selected_on_test:
        text += " The test images chose the epoch, so these accuracies are too good."
    counts = [run.record.test.test_evaluations or 1 for row in group.rows for run in row.runs if run.record.test]
    if counts and not group.selected_on_test:
        times = "once" if max(counts) == 1 else f"up to {max(counts)} times"
        ranks = "; validation ranks the rows" if group.rows[0].ranked_by else ""
        text += f" Test images were evaluated {times} for each of {plural(len(counts), 'run')}{ranks}."
    return text


def _accuracies(rows: Sequence[ResultRow]) -> list[Column]:
    """Make the columns of validation and test accuracy; n is in the title if it is the same for all rows."""
    made = []
    for split, name in SPLIT_NAMES.items():
        sizes = {row.accuracies[split].n for row in rows if row.accuracies[split]}
        same = f" (n = {sizes.pop():,})" if len(sizes) == 1 and None not in sizes else ""
        fill = partial(_accuracy_of, split=split, with_n=not same)
        made.append(Column(f"{name} accuracy{same}", fill))
    return made


def _further_metrics(rows: Sequence[ResultRow]) -> list[Column]:
    """Make a column for each of the user's own metrics, a mean over a row's runs: on test if any row has it, else on val."""
    split = "test" if any(row.further("test") for row in rows) else "val"
    names = dict.fromkeys(name for row in rows for name in row.further(split))
    return [
        Column(f"{SPLIT_NAMES[split]} {clean(name, 40)}", partial(_further_of, split=split, name=name))
        for name in names
    ]


def _further_of(row: ResultRow, split: str, name: str) -> Cell:
    value = row.further(split).get(name)
    return Cell("-" if value is None else f"{value:.3f}", value)


def _accuracy_of(row: ResultRow, split: str, with_n: bool) -> Cell:
    cell, found = accuracy_cell(row.accuracies[split], with_n), row.accuracies[split]
    if found is None or found.n_seeds == len(row.seeds):
        return cell
    few = f"{found.n_seeds} of {len(row.seeds)} seeds"  # the others were not evaluated on this split
    return cell._replace(detail=f"{cell.detail}, {few}" if cell.detail else few)


def _exported_as(row: ResultRow) -> Cell:
    name = join_words([clean(each, 40) for each in dict.fromkeys(each.format for each in row.deployed)])
    written = sum(not each.error for each in row.deployed)
    some = f"{written:,} of {plural(len(row.runs), 'run')}" if written < len(row.runs) else ""
    return Cell(name, name, some if written else "no file")


def _accuracy_as_exported(files: list[Deployed]) -> Cell:
    return _mean_with_interval([each.val.accuracy for each in files if each.val and each.val.accuracy])


def _export_costs(files: list[Deployed], balanced: bool = False) -> Cell:
    return _mean_with_interval(_costs_of(files, balanced))


def _mean_with_interval(found: Sequence[Proportion | ExportCost]) -> Cell:
    """Return the mean; of a single one also its interval."""
    if not found:
        return Cell("-", None)
    mean = fmean(each.value for each in found)
    return Cell(f"{mean:z.3f}", mean, format_interval(found[0].low, found[0].high) if len(found) == 1 else "")


def _export_verdict(files: list[Deployed]) -> Cell:
    """Return `within 0.01`; for several files the number of files with each verdict."""
    verdicts = [clean(each.verdict, LONGEST_ERROR) for each in _costs_of(files)]
    text = ", ".join(f"{n:,} {each}" if len(verdicts) > 1 else each for each, n in Counter(verdicts).items())
    return Cell(text or "-", text or None)


def _costs_of(files: list[Deployed], balanced: bool = False) -> list[ExportCost]:
    costs = [each.val.balanced_cost if balanced else each.val.cost for each in files if each.val]
    return [each for each in costs if each]


def _largest_difference(files: list[Deployed]) -> Cell:
    largest = max((each.largest_difference for file in files for each in file.measured), default=None)
    return Cell("-" if largest is None else f"{largest:.1e}", largest)


def exported_values(row: ResultRow) -> list:
    """Return format, accuracy, costs, bytes and latency in ms; None for each that is unknown."""
    made = (_accuracy_as_exported, _export_costs, partial(_export_costs, balanced=True))
    cells = [_exported_as(row), *(cell(row.files) for cell in made)]
    cells += [_mean_of(row.files, value_of, str) for value_of in (lambda each: each.bytes, _reliable_ms)]
    return [cell.value for cell in cells]


def _reliable_ms(found: Deployed) -> float | None:
    return found.latency.latency_p50_ms if found.latency and found.latency.is_reliable else None


def _mean_of(
    files: list[Deployed], value_of: Callable[[Deployed], float | None], shown: Callable[[float], str]
) -> Cell:
    values = [value for each in files if (value := value_of(each)) is not None]
    return Cell(shown(fmean(values)), fmean(values)) if values else Cell("-", None)


def _training_images(rows: Sequence[ResultRow]) -> list[Column]:
    """Make a column if rows were trained on different images; a fingerprint tells equal numbers of images apart."""
    trained = {(row.data.n_train, row.fingerprint) for row in rows}
    if len(trained) < 2:
        return []
    counts = [n for n, _ in trained]

    def fill(row: ResultRow) -> Cell:
        n = row.data.n_train
        fingerprint = f"fingerprint {clean(row.fingerprint, 7)}" if counts.count(n) > 1 else ""
        return Cell("-" if n is None else f"{n:,}", n, fingerprint)

    return [Column("training images", fill)]


def _chosen_from(best: BestOfValue) -> Cell:
    text = plural(best.n_rows, "run" if best.n_runs == best.n_rows else "row")
    return Cell(text, best.n_rows, "" if best.n_runs == best.n_rows else plural(best.n_runs, "run"))


def _folds(row: ResultRow) -> Cell:
    if not row.folds:
        return Cell("-", None)
    return Cell(row.describe_folds(), row.folds_per_seed[0])
