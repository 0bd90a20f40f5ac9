"""Records as rows: runs that differ only in seed or fold are one, and rows of other data stand apart."""

from dataclasses import dataclass, field
from statistics import median

from common.text import clean, finite_number, plural
from reports.accuracy import Accuracy, accuracy
from reports.config_diff import changed_settings, settings_key, value_of
from reports.load_runs import LoadedRuns, Run
from reports.outcomes import CorrectnessMatrix, correctness_matrix

VAL_TEST = "fingerprint_val_test"  # in a record's data: of the images that accuracies are of; older ones lack it
NOT_A_NAME = {"none", "null", "true", "false", "auto"}  # values that say nothing without their key


@dataclass
class ResultRow:
    """Runs that differ in seed or fold alone, ordered by both."""

    runs: list[Run]
    changed: dict[str, str]  # short name of a setting -> its value in words
    name: str
    accuracies: dict[str, Accuracy | None]
    outcomes: dict[str, CorrectnessMatrix | str]  # or why there are none
    rank: int = 0
    verdict: object = None  # reports.significance.Comparison

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
    def n_train(self) -> int | None:
        return finite_number(self.data.get("n_train"))

    @property
    def fingerprint(self) -> str | None:
        """Of all its images and their splits; None of a cross-validation, whose folds have one each."""
        return _fingerprint(self.runs[0])

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images chose the epoch, so that there are no validation figures."""
        return self.data.get("select_on") == "test"

    @property
    def ranked_by(self) -> Accuracy | None:
        return self.accuracies["test" if self.selected_on_test else "val"]

    def measured(self, section: str, key: str) -> float | None:
        """The median over the runs of a number in their records."""
        values = [finite_number((run.record[section] or {}).get(key)) for run in self.runs]
        return median(found) if (found := [v for v in values if v is not None]) else None

    @property
    def macs(self) -> float | None:
        return self.measured("model", "macs")

    @property
    def parameters(self) -> float | None:
        return self.measured("model", "parameters")

    @property
    def latency_p50_ms(self) -> float | None:
        """For one image."""
        values = [finite_number(entry.get("latency_p50_ms")) for run in self.runs for entry in single_latencies(run)]
        return median(found) if (found := [v for v in values if v is not None]) else None

    @property
    def wall_time_s(self) -> float | None:
        """Of one run."""
        return self.measured("run", "wall_time_s")


@dataclass
class ResultGroup:
    """Rows on the same images, splits and protocol, ranked; only they are compared."""

    rows: list[ResultRow]
    data: list[dict[int | None, str | None]] = field(default_factory=list)
    split: str = "test"  # that the differences are of
    optimism: tuple | None = None  # evaluation.paired_tests.BiasCorrectedBest, and of how many rows

    @property
    def heading(self) -> str:
        """Which data: name, images, fingerprint of those that accuracies are of."""
        data = self.rows[0].data
        if data.get("fingerprint") is None:
            return f"{clean(data.get('name', 'data'), 60)}: nothing was trained or measured"
        counts = ", ".join(text for split in ("train", "val", "test") if (text := self._images(split)))
        folds = f", cross-validation in {plural(data['folds'], 'fold')}" if finite_number(data.get("folds")) else ""
        selected = ", the test images chose the epoch" if self.rows[0].selected_on_test else ""
        prints = "" if folds else f", {self._fingerprint()}"
        return f"{clean(data.get('name'), 60)}: {counts} images{folds}{prints}{selected}"

    def _images(self, split: str) -> str:
        """`445 test`, `200 to 800 train` where runs differ, or nothing."""
        found = {finite_number((run.record["data"] or {}).get(f"n_{split}")) for row in self.rows for run in row.runs}
        sizes = sorted(n for n in found if n)
        return f"{' to '.join(f'{n:,}' for n in dict.fromkeys((sizes[0], sizes[-1])))} {split}" if sizes else ""

    def _fingerprint(self) -> str:
        alone = [row.data[VAL_TEST] for row in self.rows if row.data.get(VAL_TEST) is not None]
        if alone:
            return f"fingerprint of val and test {clean(alone[0], 20)}"
        return f"fingerprint {clean(self.rows[0].data['fingerprint'], 20)}"


@dataclass
class ReportData:
    """All that a report says."""

    sections: list[ResultGroup]
    unfinished: list[ResultRow]  # failed or not at their end, one run each
    excluded: list[tuple[str, str]]  # folder, reason
    columns: list[str]  # short names of the changed settings
    runs: list[Run]


def aggregate(gathered: LoadedRuns) -> ReportData:
    """Rows, grouped apart by data and ranked by validation accuracy, then MACs."""
    finished = [run for run in gathered.runs if run.record["status"] == "finished"]
    compared = [run for run in gathered.runs if run.record["status"] in ("finished", "pruned")]
    keys = changed_settings(compared or gathered.runs)
    excluded = list(gathered.excluded)
    groups: dict[tuple, dict[tuple, Run]] = {}
    for run in sorted(finished, key=lambda r: str(r.record["run"].get("started_at"))):
        group = groups.setdefault((settings_key(run), _fingerprint(run), _select_on(run)), {})
        earlier = group.get((run.seed, run.fold))
        if earlier:
            excluded.append((str(earlier.folder), f"the same settings, seed and fold as the later run {run.name}"))
        group[run.seed, run.fold] = run
    rows = [_row(list(group.values()), keys) for group in groups.values()]
    unfinished = [_row([run], keys, measure=False) for run in gathered.runs if run.record["status"] != "finished"]
    return ReportData(_sections(rows), unfinished, excluded, list(keys.values()), gathered.runs)


def single_latencies(run: Run) -> list[dict]:
    """The record's latencies at batch size 1."""
    entries = (run.record["model"] or {}).get("latency")
    return [e for e in entries if isinstance(e, dict) and e.get("batch_size") == 1] if isinstance(entries, list) else []


def _row(runs: list[Run], keys: dict[str, str], measure: bool = True) -> ResultRow:
    runs.sort(key=lambda run: (run.seed or 0, run.fold or 0))
    changed = {short: value_of(runs[0], key) for key, short in keys.items()}
    told = {name: value for name, value in changed.items() if value != "-"} or changed
    name = " ".join(f"{key}={value}" for key, value in told.items())
    if len(changed) == 1 and next(iter(told.values())).lower() not in NOT_A_NAME:
        name = next(iter(told.values()))
    if not name:
        name = clean((runs[0].record["model"] or {}).get("name") or runs[0].name, 60)
    found = {split: correctness_matrix(runs, split) if measure else "not finished" for split in ("val", "test")}
    accuracies = {split: accuracy(runs, split, found[split]) for split in found}
    return ResultRow(runs, changed, name, accuracies, found)


def _fingerprint(run: Run) -> str | None:
    return str((run.record["data"] or {}).get("fingerprint")) if run.fold is None else None


def _select_on(run: Run) -> tuple[str, str]:
    data = run.record["data"] or {}
    return str(data.get("select_on")), str(data.get("classes"))


def _measured_on(runs: list[Run]) -> list[str]:
    """What names the validation and test images of each run.

    A record without a fingerprint of those alone has that of another record with the same images, else the one of all.
    """
    data = [run.record["data"] or {} for run in runs]
    known = {str(each.get("fingerprint")): each[VAL_TEST] for each in data if each.get(VAL_TEST) is not None}
    alone = [each.get(VAL_TEST) or known.get(str(each.get("fingerprint"))) for each in data]
    return [str(name or each.get("fingerprint")) for name, each in zip(alone, data, strict=True)]


def _sections(rows: list[ResultRow]) -> list[ResultGroup]:
    """Rows together that have the same validation and test images; of cross-validations in the folds that they share."""
    every = [run for row in rows for run in row.runs]
    measured_on = {id(run): name for run, name in zip(every, _measured_on(every), strict=True)}
    sections: list[tuple[tuple, dict, list[ResultRow]]] = []
    for row in rows:
        prints = {run.fold: measured_on[id(run)] for run in row.runs}
        key = prints.get(None), _select_on(row.runs[0])  # each fold has splits of its own
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
        ranked.append(ResultGroup(members))
    return ranked


def _order(row: ResultRow) -> tuple:
    accuracy = row.ranked_by.value if row.ranked_by else -1.0
    return -accuracy, float("inf") if row.macs is None else row.macs, row.name
