"""Compare smallest.py with an exhaustive grid and with search.py over the same networks: each one's answer and its cost.

    python -m benchmarks.smallest --data ants_bees=DIR elpv cifar_cat_dog=DIR \\
        --weights shufflenet_v2_x0_5=FILE tf_efficientnet_lite0=FILE [--parts smallest grid search] [--overrides OVERRIDE ...]

DIR contains train/CLASS and test/CLASS, or train/CLASS and val/CLASS, whose images then serve as test images; elpv needs no
DIR. The parts for each data set:

- smallest: `python smallest.py` within --minutes; its smallest.json lists the networks for the other two parts.
- grid: fine-tune every network within --slack of the front of cost against probed accuracy, with recipe=fast and one seed (if
  there are more than --most, that many evenly spaced ones and the best probed one). Then choose on validation as smallest.py
  does, and test.
- search: `python search.py` with the same backbones, cuts and sizes, for accuracy and MACs; one search per backbone, because
  each has its own weights and block names. --trials in total; by default as many as fit into the processor time of smallest.py,
  by the mean time of the grid's runs. Then make the same choice among its trials.

Each part is timed as whole processes, with the processor time of everything they start (if the benchmark was killed, that of
its last command is missing). Runs are kept in --folder: the same command resumes, and parts can be run one by one. Each
OVERRIDE of train.py applies to all parts. Prints a Markdown table of the results so far, and writes it to FOLDER/table.md.
"""

import csv
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import PROJECT, RESULTS
from common.errors import UserError
from common.predictions_csv import read_predictions
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.smallest_record import FILE, Candidate, SmallestRecord
from common.table import Table
from common.text import format_interval, override_value
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from evaluation.choice import Finalist, Rule, choose

PARTS = ("smallest", "grid", "search")
TIMES = ("part", "processor_s", "wall_s", "command")  # columns of times.csv
USUAL_TRIALS = 10
SEED = "seed=1"


class Answer(NamedTuple):
    """The network that a part chose."""

    name: str
    macs: int
    test: str  # accuracy with its interval
    trained: int  # runs


class Case:
    """One data set, and the folder of its runs.

    Args:
        given: NAME, a data set of conf/datamodule, or NAME=DIR.
    """

    def __init__(self, given: str, args: Namespace):
        self.name, _, root = given.partition("=")
        self.folder, self.args = args.folder / self.name, args
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self._of_folder(Path(root).resolve()) if root else [f"datamodule={self.name}"]
        self.weights = dict(each.split("=", 1) for each in args.weights)

    def _of_folder(self, root: Path) -> list[str]:
        catalog = read_source(ImageFolder(root=root))
        if {"val", "test"} <= set(catalog.splits) or "val" not in catalog.splits:
            return ["datamodule=image_folder", f"datamodule.root={override_value(str(root))}"]
        table = self.folder / f"{self.name}.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(("path", "label", "split"))
            for path, label, split in zip(catalog.paths, catalog.labels, catalog.splits, strict=True):
                lines.writerow((path, catalog.classes[label], {"val": "test"}.get(split, split)))
        given = {"datamodule.table": str(table), "datamodule.root": str(root)}
        return ["datamodule=csv", *(f"{key}={override_value(value)}" for key, value in given.items())]

    @property
    def record(self) -> SmallestRecord:
        """The record of smallest.py.

        Raises:
            UserError: there is none yet.
        """
        return SmallestRecord.read(self.folder / "smallest")

    def network(self, backbone: str) -> list[str]:
        weights = self.weights.get(backbone)
        return [
            "model=truncated", f"model.backbone={backbone}",
            *([f"model.weights={override_value(str(Path(weights).resolve()))}"] if weights else []),
        ]  # fmt: skip

    def run(self, part: str, script: str, *arguments: str) -> None:
        """Run a command as a process, and append its times to times.csv.

        Raises:
            SystemExit: it failed.
        """
        command = [script, *arguments]
        print(f"{self.name}, {part}: python {shlex.join(command)}", flush=True)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        status = 1
        try:
            with (self.folder / f"{part}.log").open("ab") as log:
                python = [sys.executable, *command]
                status = subprocess.run(
                    python, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, check=False
                ).returncode
        finally:
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            line = (part, round(processor_s, 2), round(time.perf_counter() - started, 2), shlex.join(command))
            times = self.folder / "times.csv"
            is_new = not times.exists()
            with times.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([TIMES, line] if is_new else [line])
        if status:
            raise SystemExit(f"{self.folder / part}.log: the command ended with status {status}")

    def times(self, part: str, column: str = "processor_s") -> list[float]:
        """Return the seconds of each command of a part that has run so far."""
        times = self.folder / "times.csv"
        if not times.exists():
            return []
        with times.open(newline="", encoding="utf-8") as file:
            return [float(line[column]) for line in csv.DictReader(file) if line["part"] == part]


def near_front(candidates: Sequence[Candidate], cost: str, slack: float, most: int) -> list[int]:
    """Return the indices of the candidates that the grid trains, the cheapest first.

    Args:
        candidates: of the search.
        cost: key of `common.smallest_record.COSTS`.
        slack: how far below the front a probed value may be.
        most: if there are more, take this many, evenly spaced in the order of their costs, and the best probed one.
    """
    screened = [i for i, each in enumerate(candidates) if each.probe is not None and not each.excluded]
    screened.sort(key=lambda i: (candidates[i].costs.of(cost) or candidates[i].costs.macs, -candidates[i].probe.value))
    near, best = [], None
    for i in screened:
        if best is None or candidates[i].probe.value >= candidates[best].probe.value - slack:
            near.append(i)
        if best is None or candidates[i].probe.value > candidates[best].probe.value:
            best = i
    if len(near) <= most:
        return near
    places = {round(place * (len(near) - 1) / max(most - 1, 1)) for place in range(most)}
    return [i for place, i in enumerate(near) if place in places or i == best]


def run_smallest(case: Case) -> None:
    folder, args = case.folder / "smallest", case.args
    if (folder / FILE).is_file() and case.record.status == "finished":
        return
    weights = [
        f"candidates.weights.{name}={override_value(str(Path(file).resolve()))}" for name, file in case.weights.items()
    ]
    sizes = [f"candidates.image_sizes={override_value(args.sizes)}"] if args.sizes else []
    case.run(
        "smallest", "smallest.py", *case.data, f"candidates.backbones={override_value(list(case.weights))}", *weights, *sizes,
        f"budget.minutes={override_value(args.minutes)}", f"good_enough={args.good_enough}", *args.overrides,
        f"hydra.run.dir={folder}",
    )  # fmt: skip


def run_grid(case: Case) -> None:
    record = case.record
    chosen = near_front(record.candidates, record.question.cost[0], case.args.slack, case.args.most)
    print(f"{case.name}, grid: {len(chosen)} of {len(record.candidates)} networks", flush=True)
    for candidate in (record.candidates[i] for i in chosen):
        folder = case.folder / "grid" / f"{candidate.backbone}-{candidate.keep}-{candidate.image_size}px"
        if not is_finished(folder):
            case.run(
                "grid", "train.py", *case.data, *case.network(candidate.backbone), f"model.keep={candidate.keep}",
                f"model.image_size={candidate.image_size}", "recipe=fast", "logger=none", SEED, "stages=[fit]",
                *case.args.overrides, f"hydra.run.dir={folder}",
            )  # fmt: skip
    test_chosen(case, "grid")


def run_search(case: Case) -> None:
    by_backbone: dict[str, list[Candidate]] = {}
    for candidate in case.record.candidates:
        if not candidate.excluded:
            by_backbone.setdefault(candidate.backbone, []).append(candidate)
    total = sum(map(len, by_backbone.values()))
    for backbone, candidates in by_backbone.items():
        folder = case.folder / "search" / backbone
        if (folder / "done").exists():
            continue
        shared = [*case.data, *case.network(backbone), "recipe=fast", "logger=none", SEED, *case.args.overrides]
        space = {
            "model.keep": list(dict.fromkeys(each.keep for each in candidates)),
            "model.image_size": sorted({each.image_size for each in candidates}),
        }
        spelled = ",".join(f"{key}:{override_value(values)}" for key, values in space.items())
        case.run(
            "search", "search.py", f"name={case.name}-{backbone}", f"space={{{spelled}}}",
            "objectives=[val.accuracy,model.macs]", f"n_trials={max(1, round(trials(case) * len(candidates) / total))}",
            "n_retrain=1", "seeds=[1]",
            f"good_enough={case.args.good_enough}", f"base_overrides={override_value(shared)}", f"hydra.run.dir={folder}",
        )  # fmt: skip
        (folder / "done").touch()
    test_chosen(case, "search")


def trials(case: Case) -> int:
    """Return the total number of trials for the searches of a data set."""
    grid, smallest, runs = sum(case.times("grid")), sum(case.times("smallest")), len(trained_runs(case, "grid"))
    if case.args.trials or not grid or not smallest or not runs:
        return case.args.trials or USUAL_TRIALS
    return max(2, round(smallest / (grid / runs)))


def whole_grid_s(case: Case) -> float:
    """Return the processor time of training all networks near the front, each as often as the reference in the finals.

    It is computed from the mean run of the grid, whose networks are evenly spaced among these; 0 if the grid has no runs.
    """
    record, n_grid = case.record, len(trained_runs(case, "grid"))
    if not n_grid:
        return 0.0
    n_near = len(near_front(record.candidates, record.question.cost[0], case.args.slack, len(record.candidates)))
    n_runs = len(record.candidates[record.answer.reference].trained.runs)
    return sum(case.times("grid")) / n_grid * n_near * n_runs


def is_finished(folder: Path) -> bool:
    try:
        return RunRecord.read(RunFolder(folder)).status == "finished"
    except UserError:
        return False


def trained_runs(case: Case, part: str) -> list[RunFolder]:
    """Return the finished runs of a part."""
    folders = {path.parent for path in (case.folder / part).rglob("result.json")}
    return [RunFolder(folder) for folder in sorted(folders) if is_finished(folder)]


def network_of(case: Case, run: RunFolder) -> Candidate:
    """Return the candidate that a run trained."""
    settings = RunRecord.read(run).run.settings
    wanted = tuple(str(settings[f"model.{key}"]) for key in ("backbone", "keep", "image_size"))
    return next(each for each in case.record.candidates if (each.backbone, each.keep, str(each.image_size)) == wanted)


def choose_run(case: Case, part: str) -> RunFolder | None:
    """Return the run that the rule of smallest.py chooses on validation, with the most accurate run as the reference."""
    runs = [run for run in trained_runs(case, part) if "retrained" not in run.path.parts]  # search.py tested those
    if not runs:
        return None
    tables = [read_predictions(run, "val") for run in runs]
    macs = [network_of(case, run).costs.macs for run in runs]
    finalists = [Finalist(cost, found.correct[None], [1]) for cost, found in zip(macs, tables, strict=True)]
    best = max(range(len(runs)), key=lambda i: (tables[i].correct.mean(), -macs[i]))
    cheaper = [i for i in range(len(runs)) if macs[i] < macs[best]]
    if not cheaper:
        return runs[best]
    rule = Rule(case.args.good_enough)
    choice = choose(finalists[best], [finalists[i] for i in cheaper], rule, tables[best].labels)
    return runs[best if choice.index is None else cheaper[choice.index]]


def test_chosen(case: Case, part: str) -> None:
    found = choose_run(case, part)
    if found is not None and not is_finished(test_folder(case, part, found)):
        checkpoint, folder = override_value(str(found.best_checkpoint)), test_folder(case, part, found)
        case.run(part, "train.py", "stages=[test]", f"ckpt_path={checkpoint}", f"hydra.run.dir={folder}")


def test_folder(case: Case, part: str, run: RunFolder) -> Path:
    return case.folder / "test" / part / run.path.relative_to(case.folder / part)


def answer(case: Case, part: str) -> Answer | None:
    """Return the network that a part chose; None if the part is not done."""
    if part == "smallest":
        if not (case.folder / "smallest" / FILE).is_file() or (record := case.record).answer is None:
            return None
        chosen = record.candidates[record.answer.chosen]
        test = chosen.trained and chosen.trained.test
        text = f"{test.value:.3f} ({format_interval(test.low, test.high)})" if test and test.low is not None else "-"
        name = f"{chosen.name} ({record.answer.verdict.replace('_', ' ')})"
        return Answer(name, chosen.costs.macs, text, record.n_trained)
    found = choose_run(case, part)
    if found is None or not is_finished(test_folder(case, part, found)):
        return None
    network, test = network_of(case, found), RunRecord.read(RunFolder(test_folder(case, part, found))).test.accuracy
    text = f"{test.value:.3f} ({format_interval(test.low, test.high)})"
    return Answer(network.name, network.costs.macs, text, len(trained_runs(case, part)))


def table(cases: Iterable[Case]) -> str:
    """Return a Markdown table with one row per data set and part; processor time is also given as a share of the grid's.

    A further column is the share of the whole grid's computed time: all networks near the front, each with as many runs as in
    the finals, on which the answer of smallest.py is based.
    """
    titles = [
        "data", "by", "answer", "MACs", "test accuracy (95% interval)", "trained runs", "processor min", "of the grid's",
        "of the whole grid's, computed", "wall min",
    ]  # fmt: skip
    lines = []
    for case in cases:
        grid = sum(case.times("grid"))
        for part in PARTS:
            if (found := answer(case, part)) is not None:
                spent, wall = sum(case.times(part)), sum(case.times(part, "wall_s"))
                shares = [f"{spent / whole:.2f}" if whole and spent else "-" for whole in (grid, whole_grid_s(case))]
                minutes = [f"{seconds / 60:.1f}" if seconds else "-" for seconds in (spent, wall)]
                lines.append([
                    case.name, f"{part}.py" if part != "grid" else part, found.name, f"{found.macs / 1e6:.1f}M", found.test,
                    f"{found.trained:,}", minutes[0], *shares, minutes[1],
                ])  # fmt: skip
    return "\n".join(Table.of(titles, lines, texts=3).as_markdown()) if lines else "nothing is done yet"


def main() -> None:
    options = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", required=True, metavar="NAME[=DIR]")
    options.add_argument("--weights", nargs="+", required=True, metavar="BACKBONE=FILE")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--folder", type=Path, default=RESULTS / "smallest")
    options.add_argument("--sizes", type=int, nargs="+", help="image sizes in pixels; those of smallest.py by default")
    options.add_argument("--minutes", type=float, help="budget of smallest.py; no limit by default")
    options.add_argument("--good-enough", type=float, default=0.02)
    options.add_argument("--slack", type=float, default=0.02, help="how far below the front a probe may be")
    options.add_argument("--most", type=int, default=24, help="most networks in the grid")
    options.add_argument("--trials", type=int)
    options.add_argument("--overrides", nargs="*", default=[], metavar="OVERRIDE", help="more settings of train.py")
    args = options.parse_args()
    args.folder = args.folder.resolve()
    cases = [Case(given, args) for given in args.data]
    for case in cases:
        for part in args.parts:
            {"smallest": run_smallest, "grid": run_grid, "search": run_search}[part](case)
    text = table(cases)
    (args.folder / "table.md").write_text(f"{text}\n", encoding="utf-8")
    load = json.dumps([round(each, 1) for each in os.getloadavg()])
    print(f"\n{text}\n\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}")


if __name__ == "__main__":
    main()
