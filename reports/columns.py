"""What stands in the tables of a report: columns and their cells, for the page and for text alike."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from common.text import clean, compact_count, duration, milliseconds, numeral, plural
from reports.accuracy import Accuracy
from reports.aggregate import ResultGroup, ResultRow
from reports.per_setting import BestOfValue, Grid, Line, SettingComparison
from reports.significance import SPLITS, Comparison

NOTE = (
    "With each figure its 95% interval, after ± the standard deviation over seeds, where there are several. The difference is "
    "that of the {split} accuracy to the best row's, on the same images and seeds; p-values are Holm-corrected for "
    "{m}, intervals are not. Cost is for one image; MACs are multiply-accumulates."
)


class Cell(NamedTuple):
    """A text with what stands in brackets after it, and what it is sorted by: a number, a word, or None, which is last."""

    text: str
    value: float | str | None
    detail: str = ""
    best: bool = False  # of its line

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})" if self.detail else self.text


class Column(NamedTuple):
    """A title, and how a line of the table fills it."""

    title: str
    fill: Callable[..., Cell]
    is_text: bool = False


def columns(section: ResultGroup, changed: list[str]) -> list[Column]:
    """Those of a section's table of which any row has something; lines are rows."""
    rows = section.rows
    made = [Column("#", lambda row: Cell(str(row.rank), row.rank))]
    made += [Column(name, lambda row, name=name: setting_cell(row.changed[name]), is_text=True) for name in changed]
    if not changed:
        made.append(Column("network", lambda row: Cell(row.name, row.name), is_text=True))
    made += [*_training_images(rows), *_accuracies(rows)]
    if len(rows) > 1:
        made += [
            Column("difference", lambda row: difference_cell(row.verdict)),
            Column("from the best", lambda row: verdict_cell(row.verdict), is_text=True),
        ]
    made += [
        Column("MACs", lambda row: Cell(compact_count(row.macs), row.macs)),
        Column("parameters", lambda row: Cell(compact_count(row.parameters), row.parameters)),
        Column("latency p50", lambda row: Cell(milliseconds(row.latency_p50_ms), row.latency_p50_ms)),
        Column("time a run", lambda row: Cell(duration(row.wall_time_s), row.wall_time_s)),
        Column("seeds", lambda row: Cell(str(len(row.seeds)), len(row.seeds))),
        Column("folds", _folds),
    ]
    return _filled(made, rows)


def columns_of_best(comparison: SettingComparison) -> list[Column]:
    """Those of the table of one setting; lines are the best of each value."""
    rows = [best.row for best in comparison.bests]
    made = [
        Column(comparison.setting, lambda best: setting_cell(best.value), is_text=True),
        Column("#", lambda best: Cell(str(best.row.rank), best.row.rank)),
        Column("with", lambda best: Cell(best.others, best.others), is_text=True),
        *(Column(title, lambda best, fill=fill: fill(best.row)) for title, fill, _ in _accuracies(rows)),
        Column("chosen from", _chosen_from),
        Column("difference", lambda best: difference_cell(best.verdict)),
        Column("from the best", lambda best: verdict_cell(best.verdict), is_text=True),
    ]
    return _filled(made, comparison.bests)


def columns_of_grid(grid: Grid) -> list[Column]:
    """A column a value of the second setting; lines are those of the first: its value, and its rows or None."""
    with_n = len({row.ranked_by.n for line in grid.lines for row in line.rows if row}) > 1

    def fill(line: Line, place: int) -> Cell:
        row = line.rows[place]
        return accuracy_cell(row and row.ranked_by, with_n)._replace(best=place == line.best)

    made = [Column(f"{grid.down} \\ {grid.across}", lambda line: setting_cell(line.value), is_text=True)]
    return made + [Column(value, partial(fill, place=place)) for place, value in enumerate(grid.values)]


def accuracy_cell(accuracy: Accuracy | None, with_n: bool = False) -> Cell:
    """`0.651 ± 0.013 (0.617 to 0.684)`."""
    if accuracy is None:
        return Cell("-", None)
    spread = "" if accuracy.standard_deviation is None else f" ± {accuracy.standard_deviation:.3f}"
    details = [] if accuracy.low is None else [f"{accuracy.low:.3f} to {accuracy.high:.3f}"]
    details += [f"n = {accuracy.n:,}"] if with_n and accuracy.n else []
    return Cell(f"{accuracy.value:.3f}{spread}", accuracy.value, ", ".join(details))


def setting_cell(text: str) -> Cell:
    """A setting's value, sorted as a number where it is one."""
    value = numeral(text)
    return Cell(text, text if value is None else value)


def difference_cell(found: Comparison) -> Cell:
    """`-0.031 (-0.062 to 0.001)`."""
    if found.difference is None:
        return Cell("-", 0.0 if found.reason == "the best" else None)
    return Cell(f"{found.difference:+z.3f}", found.difference, f"{found.low:z.3f} to {found.high:z.3f}")


def verdict_cell(found: Comparison) -> Cell:
    """`cannot be told apart (p = 0.12)`, or why there is no test."""
    if found.reason is not None:
        return Cell(str(found), -2.0 if found.reason == "the best" else None)
    words, _, p_value = str(found).partition(" (")
    return Cell(words, -found.p_value, p_value.rstrip(")"))


def note(section: ResultGroup) -> str:
    """What the figures of a section's table are."""
    tests = sum(row.verdict.p_value is not None for row in section.rows)
    text = NOTE.format(split=SPLITS[section.split], m=f"{tests:,} comparison{'s' if tests != 1 else ''}")
    if section.split == "val" and tests:
        text += " The best row was chosen on these validation images, which flatters it."
    if section.rows[0].selected_on_test:
        text += " Here the test images chose the epoch: these accuracies are too good."
    return text


def _accuracies(rows: Sequence[ResultRow]) -> list[Column]:
    """Validation and test; n stands in the title where it is the same for all."""
    made = []
    for split, word in (("val", "validation accuracy"), ("test", "test accuracy")):
        sizes = {row.accuracies[split].n for row in rows if row.accuracies[split]}
        same = f" (n = {sizes.pop():,})" if len(sizes) == 1 and None not in sizes else ""
        made.append(Column(word + same, lambda row, s=split, n=not same: accuracy_cell(row.accuracies[s], n)))
    return made


def _training_images(rows: Sequence[ResultRow]) -> list[Column]:
    """Where rows were trained on others; equally many others are told apart by their fingerprint."""
    trained = {(row.n_train, row.fingerprint) for row in rows}
    if len(trained) < 2:
        return []
    counts = [n for n, _ in trained]

    def fill(row: ResultRow) -> Cell:
        others = f"fingerprint {clean(row.fingerprint, 7)}" if counts.count(row.n_train) > 1 else ""
        return Cell("-" if row.n_train is None else f"{row.n_train:,}", row.n_train, others)

    return [Column("training images", fill)]


def _chosen_from(best: BestOfValue) -> Cell:
    text = plural(best.n_rows, "run" if best.n_runs == best.n_rows else "row")
    return Cell(text, best.n_rows, "" if best.n_runs == best.n_rows else plural(best.n_runs, "run"))


def _folds(row: ResultRow) -> Cell:
    wanted = row.data.get("folds")
    return Cell(f"{len(row.folds)} of {wanted}", len(row.folds)) if row.folds else Cell("-", None)


def _filled(made: list[Column], lines: Sequence) -> list[Column]:
    return [column for column in made if column.is_text or any(column.fill(line).value is not None for line in lines)]
