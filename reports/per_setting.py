"""The best of each value of a setting, so that values are compared at their own best and not at one that suits one of them.

Choi et al. 2019, arXiv:1910.05446: how optimizers rank depends on what else was tried with each, and how often.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from common.text import join_words, numeral, plural
from reports.aggregate import ResultGroup, ResultRow
from reports.significance import SPLITS, Comparison, compare_rows

MOST_SETTINGS = 8  # with a table
MOST_VALUES = 20  # of a table
MOST_CELLS = 240  # of a grid
FEWEST_TRIED = 3  # values of a setting that have an edge and something within
WORDS = {"lr": "learning rate"}
LARGEST = {"train_fraction": 1.0}  # settings that end there


class BestOfValue(NamedTuple):
    """The best row by validation of those with one value of a setting."""

    value: str
    row: ResultRow
    others: str  # its other settings
    n_rows: int  # that it was chosen from
    n_runs: int
    verdict: Comparison  # against the best value; p-values after Holm's correction over the values


class SettingComparison(NamedTuple):
    """The values of one setting, the best first."""

    setting: str
    bests: list[BestOfValue]  # at most MOST_VALUES
    sentences: list[str]  # the answer, and whether it is fair

    @property
    def title(self) -> str:
        return f"The best of each {_word(self.setting)}"


class Line(NamedTuple):
    """One value of a grid's first setting: its row for each value of the second, or None; and which is the best."""

    value: str
    rows: list[ResultRow | None]
    best: int


class Grid(NamedTuple):
    """Every value of one setting with every value of another."""

    down: str
    across: str
    values: list[str]  # of `across`
    lines: list[Line]

    @property
    def title(self) -> str:
        return f"Each {_word(self.down)} at each {_word(self.across)}"


def best_per_setting(section: ResultGroup) -> list[SettingComparison]:
    """One comparison a setting, where two or more differ and some value has several rows to choose from."""
    swept = _swept(section.rows)
    if len(swept) < 2:
        return []
    made = [_comparison(section, setting, list(swept)) for setting in swept]
    return [found for found in made if found][:MOST_SETTINGS]


def grid(section: ResultGroup) -> Grid | None:
    """Where exactly two settings differ and most of their pairs were run; a setting of numbers goes across."""
    swept = _swept(section.rows)
    if len(swept) != 2:
        return None
    (down, of_down), (across, of_across) = swept.items()
    numbers = [all(numeral(value) is not None for value in values) for values in (of_down, of_across)]
    if numbers == [True, False] or (numbers[0] == numbers[1] and len(of_across) > len(of_down)):
        (down, of_down), (across, of_across) = (across, of_across), (down, of_down)
    places: dict[tuple[str, str], ResultRow] = {}
    for row in _measured(section.rows):
        places.setdefault((row.changed[down], row.changed[across]), row)  # they come by rank
    lines = []
    for value in of_down:
        rows = [places.get((value, other)) for other in of_across]
        if any(rows):
            lines.append(Line(value, rows, min((row.rank, i) for i, row in enumerate(rows) if row)[1]))
    size = len(of_down) * len(of_across)
    filled = sum(row is not None for line in lines for row in line.rows)
    return Grid(down, across, of_across, lines) if size <= MOST_CELLS and 2 * filled > size else None


def edges(section: ResultGroup, unfinished: Sequence[ResultRow] = ()) -> list[str]:
    """Where the best value of a setting of numbers is the first or last tried, so that a better one may lie beyond.

    Looked at for each combination of the settings that are no numbers; unfinished rows count as tried.
    """
    swept = _swept(section.rows)
    numbers = [s for s, values in swept.items() if all(numeral(value) is not None for value in values)]
    names = [setting for setting in swept if setting not in numbers]
    groups: dict[tuple[str, ...], list[ResultRow]] = defaultdict(list)
    for row in (*_measured(section.rows), *unfinished):
        groups[tuple(row.changed[name] for name in names)].append(row)
    sentences = []
    for setting in (s for s in numbers if not s.endswith("seed")):
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for values, tried in groups.items():
            if edge := _edge(setting, tried):
                found[edge].append(" with ".join(value for value in values if value != "-"))
        for (end, value), which in found.items():
            of = f" for {join_words(which)}" if all(which) else ""
            sentences.append(f"The best {_word(setting)}{of} is the {end}est tried ({value}): try {end}er ones.")
    return sentences


def best_note(section: ResultGroup) -> str:
    """What stands in the tables of single settings."""
    by = "test" if section.rows[0].selected_on_test else "validation"
    return (
        f"Each line is the row that {by} puts first among those with this value, # its rank in the table of all. The {by} "
        f"accuracy, by which it was chosen, flatters a value that had more tries. The difference is that of the "
        f"{SPLITS[section.split]} accuracy to the first line's, on the same images and seeds; p-values are Holm-corrected "
        "within each table, intervals are not."
    )


def grid_note(found: Grid) -> str:
    """How a grid is read."""
    rows = [row for line in found.lines for row in line.rows if row]
    by = "Test" if rows[0].selected_on_test else "Validation"
    sizes = {row.ranked_by.n for row in rows}
    n = f" (n = {sizes.pop():,})" if len(sizes) == 1 and None not in sizes else ""
    return (
        f"{by} accuracy{n} with its 95% interval. The best of each line is marked; a column compares all at one "
        f"{_word(found.across)}."
    )


def _edge(setting: str, tried: list[ResultRow]) -> tuple[str, str] | None:
    """`larg` or `small` and the value, where all of the best have it and it is not where the setting ends."""
    rows = [row for row in tried if row.rank]  # finished, the best first
    values = {number: text for row in tried if (number := numeral(text := row.changed[setting])) is not None}
    best = {numeral(row.changed[setting]) for row in rows if row.ranked_by.value == rows[0].ranked_by.value}
    if len(values) < FEWEST_TRIED or len(best) != 1 or None in best:
        return None
    (value,) = best
    whole = all(number.is_integer() for number in values)
    if value == max(values) and value != LARGEST.get(setting):
        return "larg", values[value]
    if value == min(values) and value != 0 and not (whole and value == 1):
        return "small", values[value]
    return None


def _comparison(section: ResultGroup, setting: str, swept: list[str]) -> SettingComparison | None:
    """None where no value has two rows to choose from."""
    by_value: dict[str, list[ResultRow]] = defaultdict(list)
    for row in _measured(section.rows):
        if row.changed[setting] != "-":
            by_value[row.changed[setting]].append(row)
    if len(by_value) < 2 or all(len(rows) == 1 for rows in by_value.values()):
        return None
    first, *others = [rows[0] for rows in by_value.values()]  # rows come by rank
    verdicts = [Comparison(reason="the best"), *compare_rows(others, first, section.split)]
    bests = [
        BestOfValue(
            value, rows[0], _others(rows[0], setting, swept), len(rows), sum(len(row.runs) for row in rows), verdict
        )
        for (value, rows), verdict in zip(by_value.items(), verdicts, strict=True)
    ]
    sentences = [_answer(bests, section), _budget(bests)]
    if len(bests) > MOST_VALUES:
        sentences.append(f"The first {MOST_VALUES} of {len(bests):,} are shown.")
    return SettingComparison(setting, bests[:MOST_VALUES], sentences)


def _answer(bests: list[BestOfValue], section: ResultGroup) -> str:
    best, *others = bests
    compared = [each for each in others if each.verdict.reason is None]
    same = [each.value for each in compared if not each.verdict.apart]
    worse = [each.value for each in compared if each.verdict.apart and each.verdict.difference < 0]
    better = [each.value for each in compared if each.verdict.apart and each.verdict.difference >= 0]
    split = SPLITS[section.split]
    parts = []
    if same:
        parts.append(f"{join_words(same)} cannot be told apart from it")
    for values, how in ((worse, "worse"), (better, "better")):
        if values:
            parts.append(f"{join_words(values)} can be told apart from it as {how} on {split}")
    if len(compared) < len(others):
        parts.append(f"{plural(len(others) - len(compared), 'value')} could not be compared")
    by = "test (which chose the epoch too)" if best.row.selected_on_test else "validation"
    chosen = f"{best.value} with {best.others}" if best.others else best.value
    return f"The best by {by} is {chosen}; {'; '.join(parts)}."


def _budget(bests: list[BestOfValue]) -> str:
    """Whether each value had as many tries."""
    word = "run" if all(best.n_runs == best.n_rows for best in bests) else "row"
    counts = sorted({best.n_rows for best in bests}, reverse=True)
    if len(counts) == 1:
        return f"Each was chosen from {plural(counts[0], word)}."
    told = [f"{join_words([best.value for best in bests if best.n_rows == n])} from {plural(n, word)}" for n in counts]
    most = [best.value for best in bests if best.n_rows == counts[0]]
    fewer = [best.value for best in bests if best.n_rows < counts[0]]
    favored = f"all but {join_words(fewer)}" if len(most) > len(fewer) else join_words(most)
    return f"Budgets differ: {join_words(told)}, so the comparison favors {favored}."


def _word(setting: str) -> str:
    return WORDS.get(setting, setting.replace("_", " "))


def _others(row: ResultRow, setting: str, swept: list[str]) -> str:
    told = [name for name in swept if name != setting and row.changed[name] != "-"]
    return " ".join(f"{name}={row.changed[name]}" for name in told)


def _measured(rows: Sequence[ResultRow]) -> list[ResultRow]:
    return [row for row in rows if row.ranked_by]


def _swept(rows: Sequence[ResultRow]) -> dict[str, list[str]]:
    """The settings of two values or more with them: numbers by size, others by the best row of each."""
    swept, measured = {}, _measured(rows)
    for name in rows[0].changed:
        values = list(dict.fromkeys(row.changed[name] for row in measured if row.changed[name] != "-"))
        if len(values) > 1:
            numbers = [numeral(value) for value in values]
            swept[name] = values if None in numbers else [v for _, v in sorted(zip(numbers, values, strict=True))]
    return swept
