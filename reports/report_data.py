"""What a report shows, computed once by `aggregate` and shared by the page, Markdown, CSV, LaTeX and the screen."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, median
from typing import NamedTuple

from common.run_record import Baseline, DataInfo, Deployed
from common.text import SPLIT_NAMES, clean, join_words, numeral, plural
from evaluation.intervals import ONE_SIDED, design_effect, guessing_probability, wilson
from evaluation.paired_tests import BiasCorrectedBest, PairedComparison, format_p
from reports.accuracy import Accuracy, CorrectnessMatrix
from reports.load_runs import Run
from reports.studies import Study
from reports.top_losses import TopLosses
from reports.wording import at_most, verdict

WITHOUT_PAIR = ("the best", "no accuracy", "no better than guessing")  # verdicts on the first row of a table
NOT_A_NAME = {"none", "null", "true", "false", "auto"}  # values that mean nothing without their key
LONGEST_REASON = 300  # characters, except in table.csv; it may name 16 images
SETTING_WORDS = {"lr": "learning rate"}


class Comparison(NamedTuple):
    """A row against the best of its group; if they cannot be compared, `reason` says why and the rest is None."""

    pair: PairedComparison | None = None
    p_value: float | None = None  # for equal accuracy, after Holm's correction over the table's comparisons
    shown: bool = False  # test images show that the row is good enough
    n_unused_seeds: int = 0  # seeds that only one of the two has
    n_folds: int | None = None  # folds that both have, if one of them lacks some
    reason: str | None = None

    @property
    def is_best(self) -> bool:
        return self.reason == "the best"

    @property
    def verdict(self) -> str:
        """`worse`, `good enough`, `not decided`, ..., or why there is no verdict."""
        if self.pair is None:
            return self.reason if self.reason in WITHOUT_PAIR else f"not compared: {self.reason}"
        return verdict(self.pair, self.p_value, self.shown)

    @property
    def details(self) -> str:
        """`at most 0.031 below, p = 0.12`, where there is a pair."""
        seeds = f", {plural(self.pair.n_seeds, 'common seed')}" if self.n_unused_seeds else ""
        folds = f", {plural(self.n_folds, 'common fold')}" if self.n_folds else ""
        return f"{at_most(self.pair)}, {format_p(self.p_value)}{seeds}{folds}"


@dataclass
class ResultRow:
    """Runs that differ only in seed or fold, ordered by both."""

    runs: list[Run]
    accuracies: dict[str, Accuracy | None]
    outcomes: dict[str, CorrectnessMatrix | str]  # by split; a text says why there is no matrix
    top_losses: TopLosses
    changed: dict[str, str] = field(default_factory=dict)  # short name of a setting -> its value as text
    name: str = ""  # `keep=4 lr=0.001`
    rank: int = 0
    comparison: Comparison | None = None

    @property
    def seeds(self) -> list[int | None]:
        return list(dict.fromkeys(run.seed for run in self.runs))

    @property
    def folds(self) -> list[int]:
        return sorted({run.fold for run in self.runs if run.fold is not None})

    @property
    def data(self) -> DataInfo:
        return self.runs[0].data

    @property
    def status(self) -> str:
        return self.runs[0].status

    @property
    def study(self) -> Study | None:
        return self.runs[0].study

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of all images and their splits; None for a cross-validation, where each fold has its own."""
        return split_fingerprint(self.runs[0])

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images chose the epoch; then there are no validation accuracies."""
        return self.runs[0].selected_on_test

    @property
    def ranked_by(self) -> Accuracy | None:
        return self.accuracies["test" if self.selected_on_test else "val"]

    @property
    def folds_per_seed(self) -> tuple[int, int]:
        """The fewest and the most folds of a seed, which may lack some, as after failed runs."""
        counts = Counter(run.seed for run in self.runs).values()
        return min(counts), max(counts)

    def describe_folds(self) -> str:
        """Return `5 of 5`, or `3 to 5 of 5` where seeds lack some."""
        return f"{' to '.join(map(str, dict.fromkeys(self.folds_per_seed)))} of {self.data.folds}"

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The most frequent class of each split that was measured and has known class counts."""
        found = {}
        for split in ("val", "test"):
            measured = [getattr(run.record, split) for run in self.runs]
            if any(each is None or len(each.class_counts or []) != len(self.data.classes) for each in measured):
                continue
            counts = [sum(each) for each in zip(*(each.class_counts for each in measured), strict=True)]
            if sum(counts) > 0:
                found[split] = Baseline.of(dict(zip(self.data.classes, counts, strict=True)))
        return found

    @cached_property
    def guesses_on(self) -> list[str]:
        """The splits on which its networks are not shown to be right more often than the most frequent class.

        Wilson's interval and the exact test of their mean accuracy decide, as for a single network on the screen: seeds that
        differ much are not a reason.
        """
        splits = []
        for split, guess in self.baselines.items():
            found, right = self.accuracies[split], self.outcomes[split]
            if found is None or not found.n:
                continue
            effect = design_effect(right.correct, right.groups) if isinstance(right, CorrectnessMatrix) else 1.0
            low, correct = wilson(found.value * found.n / effect, found.n / effect).low, found.value * found.n
            if low <= guess.share or guessing_probability(correct, found.n, guess.share) > ONE_SIDED:
                splits.append(split)
        return splits

    @property
    def guesses(self) -> bool:
        """Whether there is such a split."""
        return bool(self.guesses_on)

    @property
    def tells_apart(self) -> str | None:
        """Return `balanced accuracy 0.654 on test` if each of its runs is above guessing by class; test counts if measured."""
        for split in ("test", "val"):
            measured = [getattr(run.record, split) for run in self.runs]
            if all(measured):
                if not all(each.better_than_guessing_by_class for each in measured):
                    return None
                return f"balanced accuracy {fmean(each.balanced_accuracy for each in measured):.3f} on {SPLIT_NAMES[split]}"
        return None

    def _median(self, value_of: Callable[[Run], float | None]) -> float | None:
        values = [value for run in self.runs if (value := value_of(run)) is not None]
        return median(values) if values else None

    @property
    def macs(self) -> float | None:
        return self._median(lambda run: run.model.counted_macs)

    @property
    def parameters(self) -> float | None:
        return self._median(lambda run: run.model.parameters)

    @property
    def latency_p50_ms(self) -> float | None:
        """Median milliseconds for one image, over the reliable measurements."""
        found = [each for run in self.runs for each in run.model.single_latencies]
        values = [each.latency_p50_ms for each in found if each.is_reliable]
        return median(values) if values else None

    @property
    def deployed(self) -> list[Deployed]:
        """The exported networks of its runs, if exports were asked for."""
        return [run.record.deployed for run in self.runs if run.record.deployed]

    @property
    def files(self) -> list[Deployed]:
        """Those of `deployed` that were written; none if there are several formats, because means would mix them."""
        written = [each for each in self.deployed if not each.error]
        return written if len({each.format for each in written}) == 1 else []

    def further(self, split: str) -> dict[str, float | None]:
        """Return the mean of each of the user's own metrics over the runs that were measured on a split."""
        measured = [found.further for run in self.runs if (found := getattr(run.record, split))]
        names = dict.fromkeys(name for each in measured for name in each)
        values = {name: [each[name] for each in measured if each.get(name) is not None] for name in names}
        return {name: fmean(each) if each else None for name, each in values.items()}

    @property
    def wall_time_s(self) -> float | None:
        """Median seconds of one run."""
        return self._median(lambda run: run.record.run.wall_time_s)

    @property
    def reason(self) -> str:
        """Why an unfinished run is not in the table, for readers."""
        return clean(self.whole_reason, LONGEST_REASON)

    @property
    def whole_reason(self) -> str:
        record = self.runs[0].record
        if record.status != "running":
            return record.reason or "no reason is recorded"
        return f"started {clean(record.run.started_at, 40)} and did not finish: still running, or killed"


class BestOfValue(NamedTuple):
    """The best row, by validation, among those with one value of a setting."""

    setting: str
    value: str
    row: ResultRow
    others: str  # its other settings
    n_rows: int  # number of rows that it was chosen from
    n_runs: int

    @property
    def name(self) -> str:
        return value_name(self.setting, self.value)

    @property
    def comparison(self) -> Comparison:
        """With the best row of all, the same as in the table of all rows."""
        return self.row.comparison


class SettingComparison(NamedTuple):
    """The values of one setting, the best first."""

    setting: str
    bests: list[BestOfValue]
    sentences: list[str]  # the answer, and whether all values had the same number of tries

    @property
    def title(self) -> str:
        return f"The best of each {setting_words(self.setting)}"


class Choice(NamedTuple):
    """The smaller network that validation chose; test images then have to show that it is good enough."""

    row: ResultRow
    on_validation: PairedComparison
    within: bool  # whether its bound on validation lies within the margin; if not, it is the one nearest to that


class GridLine(NamedTuple):
    """One value of a grid's first setting: its row, or None, for each value of the second, and the index of the best."""

    value: str
    rows: list[ResultRow | None]
    best: int


class Grid(NamedTuple):
    """Every value of one setting with every value of another."""

    down: str
    across: str
    values: list[str]  # of `across`
    lines: list[GridLine]

    @property
    def title(self) -> str:
        return f"Each {setting_words(self.down)} at each {setting_words(self.across)}"


@dataclass
class ResultGroup:
    """Rows of one study on the same validation and test images, ranked; only they are compared."""

    rows: list[ResultRow]
    changed: list[str] = field(default_factory=list)  # short names of the settings that differ
    split: str = "test"  # on which differences are measured
    margin: float = 0.02  # how far below the best is good enough
    target: float | None = None  # accuracy that is enough whatever the best has; None: none was asked for
    choice: Choice | None = None
    chose_best: bool = False  # whether the measurements that are compared also chose the best row
    n_tests: int = 1  # number of tests for which the test of the named row is corrected
    selection_bias: tuple[BiasCorrectedBest, int] | None = None  # and the number of rows
    settings: list[SettingComparison] = field(default_factory=list)
    grid: Grid | None = None
    edges: list[str] = field(default_factory=list)  # sentences on optima at the edge of what was tried
    n_unfinished: int = 0  # runs of the same study that failed, were pruned or are still running

    @property
    def selected_on_test(self) -> bool:
        return self.rows[0].selected_on_test

    @property
    def ranked_on(self) -> str:
        """The split whose accuracy ranks the rows, in words."""
        return "test" if self.selected_on_test else "validation"

    @property
    def study(self) -> Study | None:
        return self.rows[0].study

    @property
    def title(self) -> str:
        """`Sweep NAME: which keep?`, a short heading for pages with several groups."""
        name = clean(self.rows[0].data.name or "data", 60)
        if self.study is None:
            return f"{'Single run' if len(self.rows) == 1 else 'Single runs'} on {name}"
        return f"{self.study.title}: {which(self.changed).lower() if self.changed else name}"

    @property
    def named_row(self) -> ResultRow:
        """The row that the answer names: the smallest network that is shown to be good enough, else the best."""
        best = self.rows[0]
        shown = [row for row in self.rows[1:] if row.comparison.shown and None not in (row.macs, best.macs)]
        smaller = [row for row in shown if row.macs < best.macs]
        return min(smaller, key=lambda row: (row.macs, row.rank), default=best)

    @property
    def heading(self) -> str:
        """Name of the data, numbers of images, and fingerprint of the images that accuracies are measured on."""
        data = self.rows[0].data
        if data.fingerprint is None:
            return f"{clean(data.name or 'data', 60)}: nothing was trained or evaluated"
        counts = ", ".join(text for split in ("train", "val", "test") if (text := self._images(split)))
        folds = f", cross-validation in {plural(data.folds, 'fold')}" if data.folds else ""
        prints = "" if folds else f", {self._fingerprint()}"
        selected = ", the test images chose the epoch" if self.selected_on_test else ""
        return f"{clean(data.name, 60)}: {counts} images{folds}{prints}{selected}"

    def _images(self, split: str) -> str:
        """Return `445 test`, `200 to 800 train` if runs differ, or an empty text."""
        sizes = sorted({n for row in self.rows for run in row.runs if (n := getattr(run.data, f"n_{split}"))})
        return f"{' to '.join(f'{n:,}' for n in dict.fromkeys((sizes[0], sizes[-1])))} {split}" if sizes else ""

    def _fingerprint(self) -> str:
        known = [row.data.fingerprint_val_test for row in self.rows if row.data.fingerprint_val_test is not None]
        if known:
            return f"fingerprint of val and test {clean(known[0], 20)}"
        return f"fingerprint {clean(self.rows[0].data.fingerprint, 20)}"


@dataclass
class ReportData:
    """Everything that a report shows."""

    groups: list[ResultGroup]
    unfinished: list[ResultRow]  # failed, pruned or still running, one run each
    excluded: list[tuple[str, str]]  # folder, reason
    runs: list[Run]

    @property
    def changed(self) -> list[str]:
        """Short names of the settings that differ within some group."""
        return list(dict.fromkeys(name for group in self.groups for name in group.changed))


def data_fingerprint(run: Run) -> str:
    """Return a fingerprint of a run's images and splits that is equal for runs that differ only in the seed.

    With datamodule.train_fraction, each seed trains on its own part of the same images.
    """
    data, fraction = run.data, run.record.run.settings.get("datamodule.train_fraction", 1)
    if data.fingerprint_full is not None:
        return data.fingerprint_full
    if data.fingerprint_val_test is not None and isinstance(fraction, (int, float)) and fraction < 1:
        return f"{data.fingerprint_val_test} {data.n_train}"
    return str(data.fingerprint)


def split_fingerprint(run: Run) -> str | None:
    """Return the fingerprint of a run's images and splits; None for a fold, which has its own splits."""
    return data_fingerprint(run) if run.fold is None else None


def which(settings: list[str]) -> str:
    """Return `Which keep and learning rate?`."""
    return f"Which {join_words([setting_words(setting) for setting in settings], 4)}?"


def value_name(setting: str, value: str) -> str:
    """Return `adam` or `lr=0.001`: the value if it is clear by itself, else with its key."""
    return value if numeral(value) is None and value.lower() not in NOT_A_NAME else f"{setting}={value}"


def by_settings(row: ResultRow) -> tuple:
    """Order by the first setting, then the second, ...: numbers by size and before words."""
    values = [(numeral(value), value) for value in row.changed.values()]
    return *((number is None, number or 0.0, text) for number, text in values), row.name


def setting_words(setting: str) -> str:
    """Return a setting's name for use in a sentence: `learning rate`."""
    return SETTING_WORDS.get(setting, setting.replace("_", " "))
