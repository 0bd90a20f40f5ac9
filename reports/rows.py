"""Records as rows: runs that differ only in seed or fold are one, and rows of other data stand apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from .changed import changed_settings, settings_key, value_of
from .gather import Gathered, Run
from .outcomes import Outcomes, outcomes
from .statistics import accuracy_interval, over_seeds, wilson
from .words import clean, number, plural

NOT_A_NAME = {"none", "null", "true", "false", "auto"}  # values that say nothing without their key


class Accuracy(NamedTuple):
    """A row's accuracy on one split; the interval is None where nothing tells it, as of one seed without counts."""

    value: float
    low: float | None
    high: float | None
    standard_deviation: float | None  # over seeds, None of a single one
    n: int | None  # pictures
    n_seeds: int
    over: str  # what the interval counts: pictures, seeds, or seeds and pictures


@dataclass
class Row:
    """Runs that differ in seed or fold alone, ordered by both."""

    runs: list[Run]
    changed: dict[str, str]  # short name of a setting -> its value in words
    name: str
    accuracies: dict[str, Accuracy | None]
    outcomes: dict[str, Outcomes | str]  # or why there are none
    rank: int = 0
    verdict: object = None  # reports.verdicts.Verdict

    @property
    def seeds(self) -> list[int | None]:
        return list(dict.fromkeys(run.seed for run in self.runs))

    @property
    def folds(self) -> list[int]:
        return sorted({run.fold for run in self.runs if run.fold is not None})

    @property
    def data(self) -> dict:
        return self.runs[0].record["data"] or {}

    @property
    def test_selected(self) -> bool:
        """Whether the test pictures chose the epoch, so that there are no validation figures."""
        return self.data.get("protocol") == "test_selected"

    @property
    def ranked_by(self) -> Accuracy | None:
        return self.accuracies["test" if self.test_selected else "val"]

    def measured(self, section: str, key: str) -> float | None:
        """The median over the runs of a number in their records."""
        values = [number((run.record[section] or {}).get(key)) for run in self.runs]
        return median(found) if (found := [v for v in values if v is not None]) else None

    @property
    def macs(self) -> float | None:
        return self.measured("model", "macs")

    @property
    def parameters(self) -> float | None:
        return self.measured("model", "parameters")

    @property
    def latency_p50_ms(self) -> float | None:
        """For one picture."""
        values = [number(entry.get("latency_p50_ms")) for run in self.runs for entry in single_latencies(run)]
        return median(found) if (found := [v for v in values if v is not None]) else None

    @property
    def wall_time_s(self) -> float | None:
        """Of one run."""
        return self.measured("run", "wall_time_s")


@dataclass
class Section:
    """Rows on the same pictures, splits and protocol, ranked; only they are compared."""

    rows: list[Row]
    data: list[dict[int | None, str | None]] = field(default_factory=list)
    split: str = "test"  # that the differences are of
    optimism: tuple | None = None  # reports.pairs.BestOf, and of how many rows

    @property
    def heading(self) -> str:
        """Which data: name, pictures, fingerprint."""
        data = self.rows[0].data
        if data.get("fingerprint") is None:
            return f"{clean(data.get('name', 'data'), 60)}: nothing was trained or measured"
        counts = ", ".join(f"{data[f'n_{s}']:,} {s}" for s in ("train", "val", "test") if number(data.get(f"n_{s}")))
        folds = f", cross-validation in {plural(data['folds'], 'fold')}" if number(data.get("folds")) else ""
        selected = ", the test pictures chose the epoch" if self.rows[0].test_selected else ""
        prints = "" if folds else f", fingerprint {clean(data['fingerprint'], 20)}"
        return f"{clean(data.get('name'), 60)}: {counts} pictures{folds}{prints}{selected}"


@dataclass
class Summary:
    """All that a report says."""

    sections: list[Section]
    unfinished: list[Row]  # failed or not at their end, one run each
    left_out: list[tuple[str, str]]  # folder, reason
    columns: list[str]  # short names of the changed settings
    runs: list[Run]


def summarize(gathered: Gathered) -> Summary:
    """Rows, grouped apart by data and ranked by validation accuracy, then MACs."""
    finished = [run for run in gathered.runs if run.record["status"] == "finished"]
    keys = changed_settings(finished or gathered.runs)
    left_out = list(gathered.left_out)
    groups: dict[tuple, dict[tuple, Run]] = {}
    for run in sorted(finished, key=lambda r: str(r.record["run"].get("started_at"))):
        group = groups.setdefault((settings_key(run), _data_key(run)), {})
        earlier = group.get((run.seed, run.fold))
        if earlier:
            left_out.append((str(earlier.folder), f"the same settings, seed and fold as the later run {run.name}"))
        group[run.seed, run.fold] = run
    rows = [_row(list(group.values()), keys) for group in groups.values()]
    unfinished = [_row([run], keys, measure=False) for run in gathered.runs if run.record["status"] != "finished"]
    return Summary(_sections(rows), unfinished, left_out, list(keys.values()), gathered.runs)


def single_latencies(run: Run) -> list[dict]:
    """The record's latencies at batch size 1."""
    entries = (run.record["model"] or {}).get("latency")
    return [e for e in entries if isinstance(e, dict) and e.get("batch_size") == 1] if isinstance(entries, list) else []


def _row(runs: list[Run], keys: dict[str, str], measure: bool = True) -> Row:
    runs.sort(key=lambda run: (run.seed or 0, run.fold or 0))
    changed = {short: value_of(runs[0], key) for key, short in keys.items()}
    told = {name: value for name, value in changed.items() if value != "-"} or changed
    name = ", ".join(f"{key}={value}" for key, value in told.items())
    if len(changed) == 1 and next(iter(told.values())).lower() not in NOT_A_NAME:
        name = next(iter(told.values()))
    if not name:
        name = clean((runs[0].record["model"] or {}).get("name") or runs[0].name, 60)
    found = {split: outcomes(runs, split) if measure else "not finished" for split in ("val", "test")}
    accuracies = {split: _accuracy(runs, split, found[split]) for split in found}
    return Row(runs, changed, name, accuracies, found)


def _accuracy(runs: list[Run], split: str, found: Outcomes | str) -> Accuracy | None:
    """Mean over seeds of what the records say; the folds of one seed together are one figure."""
    seeds: dict[int | None, list[dict]] = {}
    for run in runs:
        entry = (run.record[split] or {}).get("accuracy")
        if isinstance(entry, dict) and number(entry.get("value")) is not None:
            seeds.setdefault(run.seed, []).append(entry)
    if not seeds:
        return None
    counted = [_counts(entries) for entries in seeds.values()]
    n = counted[0][1]
    values = [c / n if n else entries[0]["value"] for (c, n), entries in zip(counted, seeds.values(), strict=True)]
    if len(values) == 1:
        low, high = wilson(*counted[0]) if n else (None, None)
        return Accuracy(values[0], low, high, None, n or None, 1, "pictures")
    mean, deviation, low, high, _ = over_seeds(values)
    over = "seeds"
    if isinstance(found, Outcomes) and len(found.seeds) == len(values) and found.correct.shape[1] > 1:
        low, high = accuracy_interval(found.correct)
        over = "seeds and pictures"
    return Accuracy(mean, max(0.0, low), min(1.0, high), deviation, n or None, len(values), over)


def _counts(entries: Sequence[dict]) -> tuple[int, int]:
    """Right ones and pictures of all folds; (0, 0) where a record has no counts."""
    pairs = [(number(entry.get("correct")), number(entry.get("n"))) for entry in entries]
    if any(c is None or not n or not 0 <= c <= n for c, n in pairs):
        return 0, 0
    return int(sum(c for c, _ in pairs)), int(sum(n for _, n in pairs))


def _data_key(run: Run) -> tuple:
    data = run.record["data"] or {}
    fingerprint = data.get("fingerprint") if run.fold is None else None  # each fold has splits of its own
    return str(fingerprint), str(data.get("protocol")), str(data.get("classes"))


def _sections(rows: list[Row]) -> list[Section]:
    """Rows together that were on the same data; of cross-validations, whose common folds are the same."""
    sections: list[tuple[tuple, dict, list[Row]]] = []
    for row in rows:
        key = _data_key(row.runs[0])
        prints = {run.fold: (run.record["data"] or {}).get("fingerprint") for run in row.runs}
        for other, seen, members in sections:
            common = prints.keys() & seen.keys()
            if key == other and common and all(prints[fold] == seen[fold] for fold in common):
                members.append(row)
                seen.update(prints)
                break
        else:
            sections.append((key, prints, [row]))
    ranked = []
    for _, _, members in sorted(sections, key=lambda entry: -len(entry[2])):
        members.sort(key=_order)
        for rank, row in enumerate(members, 1):
            row.rank = rank
        ranked.append(Section(members))
    return ranked


def _order(row: Row) -> tuple:
    accuracy = row.ranked_by.value if row.ranked_by else -1.0
    return -accuracy, float("inf") if row.macs is None else row.macs, row.name
