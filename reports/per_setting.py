"""The best row of each value of a setting: values are compared at their own best, not under settings that suit one of them.

Choi et al. 2019, arXiv:1910.05446: how optimizers rank depends on what else was tried with each, and how often.
"""

from collections import defaultdict
from collections.abc import Sequence

from common.text import SPLIT_NAMES, join_words, numeral, plural
from reports.report_data import BestOfValue, Grid, GridLine, ResultGroup, ResultRow, SettingComparison, setting_words

MOST_SETTINGS = 8  # with a table
MOST_VALUES = 20  # of a table
MOST_CELLS = 240  # of a grid
FEWEST_TRIED = 3  # values of a setting that have an edge and something within
LARGEST = {"train_fraction": 1.0}  # settings that end there

Swept = dict[str, list[str]]  # setting -> its values


def compare_settings(group: ResultGroup, unfinished: Sequence[ResultRow]) -> None:
    """Set a group's comparisons of single settings, its grid, and the sentences on optima at an edge."""
    if group.rows[0].guesses:  # there is no best of any value
        return
    swept = _swept(group.rows)
    if len(swept) > 1:
        made = [found for setting in swept if (found := _comparison(group, setting, swept))]
        group.settings = made[:MOST_SETTINGS]
        if others := [found.setting for found in made[MOST_SETTINGS:]]:
            group.settings[-1].sentences.append(f"Settings without a table of their own: {join_words(others)}.")
    if len(swept) == 2:
        group.grid = _grid(group, swept)
    group.edges = _edges(group, swept, unfinished)


def best_note(group: ResultGroup) -> str:
    """Explain the tables of single settings."""
    by = group.ranked_on
    return (
        f"Each line is the row with this value that {by} ranks first; # is its rank in the table above. Its {by} accuracy "
        "chose it, which flatters values with more tries. Differences are from the best row of all, as above."
    )


def grid_note(grid: Grid) -> str:
    """Explain a grid."""
    rows = [row for line in grid.lines for row in line.rows if row]
    by = "Test" if rows[0].selected_on_test else "Validation"
    sizes = {row.ranked_by.n for row in rows}
    n = f" (n = {sizes.pop():,})" if len(sizes) == 1 and None not in sizes else ""
    return (
        f"{by} accuracy{n} with its 95% interval. The best of each line is marked; a column compares all at the same "
        f"{setting_words(grid.across)}."
    )


def _measured(rows: Sequence[ResultRow]) -> list[ResultRow]:
    return [row for row in rows if row.ranked_by]


def _swept(rows: Sequence[ResultRow]) -> Swept:
    """Return the settings with two values or more: numbers by size, others by the best row of each."""
    swept, measured = {}, _measured(rows)
    for name in rows[0].changed:
        values = list(dict.fromkeys(row.changed[name] for row in measured if row.changed[name] != "-"))
        if len(values) > 1:
            numbers = [numeral(value) for value in values]
            swept[name] = values if None in numbers else [v for _, v in sorted(zip(numbers, values, strict=True))]
    return swept


def _comparison(group: ResultGroup, setting: str, swept: Swept) -> SettingComparison | None:
    """Compare the best row of each value; None if no value has two rows to choose from."""
    by_value: dict[str, list[ResultRow]] = defaultdict(list)
    for row in _measured(group.rows):
        if row.changed[setting] != "-":
            by_value[row.changed[setting]].append(row)
    if len(by_value) < 2 or all(len(rows) == 1 for rows in by_value.values()):
        return None
    bests = []
    for value, rows in by_value.items():  # rows come by rank
        names = [name for name in swept if name != setting and rows[0].changed[name] != "-"]
        rest = " ".join(f"{name}={rows[0].changed[name]}" for name in names)
        bests.append(BestOfValue(setting, value, rows[0], rest, len(rows), sum(len(row.runs) for row in rows)))
    sentences = [_answer(bests, group), _budget(bests)]
    if len(bests) > MOST_VALUES:
        sentences.append(f"The first {MOST_VALUES} of {len(bests):,} are shown.")
    return SettingComparison(setting, bests[:MOST_VALUES], sentences)


def _answer(bests: list[BestOfValue], group: ResultGroup) -> str:
    """Say which value is the best, and how the others compare with the best row of all."""
    best, *others = bests
    by = "test (which chose the epoch too)" if best.row.selected_on_test else "validation"
    chosen = f"{best.name} with {best.others}" if best.others else best.name
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for each in others:
        comparison = each.comparison
        by_verdict[comparison.verdict if comparison.pair else "not compared"].append(each.name)
    parts = [
        f"{join_words(values)} {'is' if len(values) == 1 else 'are'} {words}" for words, values in by_verdict.items()
    ]
    return (
        f"The best by {by} is {chosen}. Compared with the best row, on {SPLIT_NAMES[group.split]}: {'; '.join(parts)}."
    )


def _budget(bests: list[BestOfValue]) -> str:
    """Say whether all values had the same number of tries."""
    word = "run" if all(best.n_runs == best.n_rows for best in bests) else "row"
    counts = sorted({best.n_rows for best in bests}, reverse=True)
    if len(counts) == 1:
        return f"Each was chosen from {plural(counts[0], word)}."
    shares = [f"{join_words([best.name for best in bests if best.n_rows == n])} from {plural(n, word)}" for n in counts]
    most = [best.name for best in bests if best.n_rows == counts[0]]
    fewer = [best.name for best in bests if best.n_rows < counts[0]]
    favored = f"all but {join_words(fewer)}" if len(most) > len(fewer) else join_words(most)
    return f"Budgets differ: {join_words(shares)}, so the comparison favors {favored}."


def _grid(group: ResultGroup, swept: Swept) -> Grid | None:
    """Lay out two settings if most of their combinations were run; a numeric setting goes across."""
    (down, of_down), (across, of_across) = swept.items()
    numbers = [all(numeral(value) is not None for value in values) for values in (of_down, of_across)]
    if numbers == [True, False] or (numbers[0] == numbers[1] and len(of_across) > len(of_down)):
        (down, of_down), (across, of_across) = (across, of_across), (down, of_down)
    places: dict[tuple[str, str], ResultRow] = {}
    for row in _measured(group.rows):
        places.setdefault((row.changed[down], row.changed[across]), row)  # they come by rank
    lines = []
    for value in of_down:
        rows = [places.get((value, other)) for other in of_across]
        if any(rows):
            lines.append(GridLine(value, rows, min((row.rank, i) for i, row in enumerate(rows) if row)[1]))
    size = len(of_down) * len(of_across)
    filled = sum(row is not None for line in lines for row in line.rows)
    return Grid(down, across, of_across, lines) if size <= MOST_CELLS and 2 * filled > size else None


def _edges(group: ResultGroup, swept: Swept, unfinished: Sequence[ResultRow]) -> list[str]:
    """Say if the best value of a numeric setting is the smallest or largest tried: a better one may lie beyond.

    Each combination of the other settings has its own best; unfinished rows count as tried.
    """
    numbers = [s for s, values in swept.items() if all(numeral(value) is not None for value in values)]
    names = [setting for setting in swept if setting not in numbers]
    combinations: dict[tuple[str, ...], list[ResultRow]] = defaultdict(list)
    for row in (*_measured(group.rows), *unfinished):
        combinations[tuple(row.changed.get(name, "-") for name in names)].append(row)
    sentences = []
    for setting in (s for s in numbers if not s.endswith("seed")):
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for values, tried in combinations.items():
            if edge := _edge(setting, tried):
                found[edge].append(" with ".join(value for value in values if value != "-"))
        for (end, value), which in found.items():
            of = f" for {join_words(which)}" if all(which) else ""
            sentences.append(
                f"The best {setting_words(setting)}{of} is the {end}est tried ({value}): try {end}er ones."
            )
    return sentences


def _edge(setting: str, tried: list[ResultRow]) -> tuple[str, str] | None:
    """Return `larg` or `small` and the value, if all of the best rows have it and the setting could be larger or smaller."""
    rows = [row for row in tried if row.rank]  # finished, the best first
    values = {number: text for row in tried if (number := numeral(text := row.changed.get(setting, "-"))) is not None}
    best = {numeral(row.changed[setting]) for row in rows if row.ranked_by.value == rows[0].ranked_by.value}
    if len(values) < FEWEST_TRIED or len(best) != 1 or None in best:
        return None
    (value,) = best
    all_whole = all(number.is_integer() for number in values)
    if value == max(values) and value != LARGEST.get(setting):
        return "larg", values[value]
    if value == min(values) and value != 0 and not (all_whole and value == 1):
        return "small", values[value]
    return None
