"""Which of two networks is better on their images? python -m reports.compare RUN_A RUN_B"""

import argparse
import functools
import operator
import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.checks import FEWEST_SEEDS, check_good_enough
from common.errors import UserError
from common.predictions_csv import Predictions, correct_matrix
from common.run_folder import RunFolder
from common.run_record import DIGESTS
from common.text import SPLIT_NAMES, clean, format_interval, plural
from evaluation.intervals import accuracy_interval, design_effect, format_accuracy, mean_over_seeds, proportion
from evaluation.paired_tests import compare_pair, format_p
from reports.accuracy import caveats_of_one_seed, groups_of, read_split
from reports.config_diff import changed_settings, values_of
from reports.load_runs import Run, load_below
from reports.report_data import data_fingerprint
from reports.wording import LEVEL, evidence

MOST_CHANGED = 6  # settings that differ and are named
HELP = """Compares the predictions of two runs, image by image.

RUN is the folder of a run (with result.json and predictions.csv), or a folder of runs that differ only in the seed; both
sides then need the same seeds. Images are paired by their pixels, whatever the files are called; if only one side
has an image, it does not count.
"""


class Side(NamedTuple):
    """One of the two networks: its runs, one per seed, ordered by seed."""

    name: str
    runs: list[Run]
    excluded: list[str]  # unfinished runs and unreadable records, with the reason

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]


def load(folder: Path) -> Side:
    """Load the run in a folder, or the finished runs below it that differ only in the seed.

    Raises:
        UserError: no folder, no readable record, no finished run, or runs that differ in more than the seed.
    """
    single = RunFolder(folder).record
    loaded = load_below(single if single.is_file() else folder)
    if not loaded.finished:
        states = ", ".join(sorted({run.status for run in loaded.runs}))
        raise UserError(f"{folder}: no finished run (status {states}); finish it first")
    finished = sorted(loaded.finished, key=lambda run: (run.seed or 0, run.folder.path))
    side = Side(str(folder), finished, loaded.why_excluded)
    _check_only_seeds_differ(side)
    return side


def _check_only_seeds_differ(side: Side) -> None:
    first, *others = side.runs
    for other in others:
        names = [os.path.relpath(run.folder.path, side.name) for run in (first, other)]  # smallest.py repeats its names
        here, there = _settings(first), _settings(other)
        if here != there:
            raise UserError(
                f"{side.name}: its runs differ in more than the seed: {' '.join(sorted(here - there)) or 'nothing'} in "
                f"{names[0]}, {' '.join(sorted(there - here)) or 'nothing'} in {names[1]}; "
                "to compare two of them, give their own folders"
            )
        for setting, field in DIGESTS.items():
            digests = getattr(first.model, field), getattr(other.model, field)
            if all(digests) and digests[0] != digests[1]:
                raise UserError(
                    f"{side.name}: the file of {setting} changed between the starts of {names[0]} and {names[1]} "
                    f"(model.{field} {digests[0]}, {digests[1]}); to compare two of them, give their own folders"
                )
        prints = data_fingerprint(first), data_fingerprint(other)
        if prints[0] != prints[1]:
            raise UserError(
                f"{side.name}: {names[0]} and {names[1]} have different data or splits (fingerprint {prints[0]}, "
                f"{prints[1]}); if the seed draws the splits, fix them with folders train, val, test or a column split"
            )
    if len(set(side.seeds)) < len(side.seeds):
        raise UserError(f"{side.name}: a seed appears twice ({', '.join(map(str, side.seeds))}); delete one")


def _settings(run: Run) -> set[str]:
    about = run.record.run
    chosen = [*about.choices.items(), *about.settings.items()]
    return {f"{key}={value}" for key, value in chosen if key != "seed"}


def compare(a: Side, b: Side, good_enough: float = 0.02) -> list[str]:
    """Return the lines that compare two networks.

    Args:
        good_enough: how far one may be below the other in accuracy and still take its place.

    Raises:
        UserError: the seeds differ, or the two have few images in common.
    """
    several = len(a.runs) > 1 or len(b.runs) > 1
    if several and a.seeds != b.seeds:
        raise UserError(
            f"seeds only in {a.name}: {_listed(a.seeds, b.seeds)}; only in {b.name}: {_listed(b.seeds, a.seeds)}; "
            "run the missing ones, or compare two single runs"
        )
    runs = (*a.runs, *b.runs)
    split, tables = read_split(runs)
    n_a, n_b = len(tables[0].paths), len(tables[-1].paths)
    tables = _on_common_images(tables)
    correct = correct_matrix(tables)
    n = correct.shape[1]
    of_common = f" that both have, of {n_a:,} of A and {n_b:,} of B" if n < max(n_a, n_b) else ""
    groups = groups_of(runs, tables)
    flatters = " (they also chose the epoch, so accuracies are too good)" if split == "val" else ""
    right_a, right_b = correct[: len(a.runs)], correct[len(a.runs) :]
    of_a, of_b = ([run.folder.path.resolve() for run in side.runs] for side in (a, b))
    same = f"A and B are the same {'runs' if several else 'run'}, so there is nothing to decide"
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    lines = [
        f"A, {a.name}: {_accuracy(right_a, a.seeds, groups)}",
        f"B, {b.name}: {_accuracy(right_b, b.seeds, groups)}",
        *_changed(a, b),
        f"{plural(n, f'{SPLIT_NAMES[split]} image')}{of_common}{flatters}{_in_groups(groups)}",
        f"only A is right on {only_a:,}, only B on {only_b:,}{f', summed over {len(right_a)} seeds' if several else ''}",
        *([same] if of_a == of_b else _verdicts(right_a, right_b, groups, split, good_enough)),
        *([] if several else caveats_of_one_seed((float(right.mean()), right.size) for right in (right_a, right_b))),
        *(f"excluded: {why}" for side in (a, b) for why in side.excluded),
    ]
    selected = [side.name for side in (a, b) if any(run.selected_on_test for run in side.runs)]
    if selected:
        lines.append(f"{' and '.join(selected)}: the test images chose the epoch, so test accuracies are too good")
    return lines


def _on_common_images(tables: list[Predictions]) -> list[Predictions]:
    """Return tables of the images that are in all of them: a test split may have grown between two runs.

    If less than half of the smallest table is left, the tables are returned whole: these are other data or splits.
    """
    common = functools.reduce(operator.and_, (Counter(table.fingerprints) for table in tables))
    if 2 * common.total() < min(len(table.paths) for table in tables):
        return tables
    found = []
    for table in tables:
        left, rows = common.copy(), []  # of images with equal pixels, as many as all tables have
        for row, fingerprint in enumerate(table.fingerprints):
            if left[fingerprint] > 0:
                left[fingerprint] -= 1
                rows.append(row)
        kept = {
            "fingerprints": [table.fingerprints[row] for row in rows],
            "paths": [table.paths[row] for row in rows],
            **{name: getattr(table, name)[rows] for name in ("labels", "predicted", "probabilities")},
        }
        found.append(table._replace(**kept))
    return found


def _changed(a: Side, b: Side) -> list[str]:
    """Return the line that names the settings in which the two differ, unless there are too many for a line."""
    runs = [a.runs[0], b.runs[0]]
    keys = changed_settings(runs)
    if not 0 < len(keys) <= MOST_CHANGED:
        return []
    texts = [[f"{short}={value}" for value in values_of(runs, key)] for key, short in keys.items()]
    return ["A has {}, B has {}".format(*map(" ".join, zip(*texts, strict=True)))]


def _verdicts(
    right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray | None, split: str, good_enough: float
) -> list[str]:
    """Say whether the two differ, and whether each could take the other's place."""
    of_a, of_b = (compare_pair(*sides, good_enough, groups) for sides in ((right_a, right_b), (right_b, right_a)))
    n_seeds = len(right_a)
    if n_seeds == 1:
        test = "exact McNemar test" if groups is None else "t test on groups"
    else:
        test = "seeds and images as random effects" if groups is None else "seeds and groups as random effects"
    seeds = f" and {n_seeds} seeds" if n_seeds > 1 else ""
    which = (
        f"{'A' if of_a.difference > 0 else 'B'} is better" if of_a.p_value < LEVEL else "which is better is not decided"
    )
    lines = [
        f"A - B: {of_a.difference:z.4f} (95% interval {format_interval(of_a.low, of_a.high)}), "
        f"{format_p(of_a.p_value)} ({test})",
        f"{which} with {plural(of_a.n, 'image')}{seeds}",
    ]
    for one, other, pair in (("A", "B", of_a), ("B", "A", of_b)):
        shown = pair.margin_p_value < LEVEL
        is_shown = "good enough" if shown else "not shown to be good enough"
        lines.append(f"{one} in place of {other}: {is_shown} (margin {pair.margin:g}): {evidence(pair, split, shown)}")
    if n_seeds < FEWEST_SEEDS:
        one = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
        lines.append(
            f"with {one} each this is about these trained networks; comparing their settings takes "
            f"{FEWEST_SEEDS} seeds or more"
        )
    return lines


def _in_groups(groups: np.ndarray | None) -> str:
    return (
        "" if groups is None else f" in {len(np.unique(groups)):,} groups, which intervals and tests take into account"
    )


def _accuracy(right: np.ndarray, seeds: list[int | None], groups: np.ndarray | None) -> str:
    runs, n = right.shape
    if runs == 1:
        return format_accuracy(proportion(int(right.sum()), n, design_effect(right, groups)))
    low, high = accuracy_interval(right, groups)
    deviation = mean_over_seeds(right.mean(axis=1).tolist()).standard_deviation
    return (
        f"{right.mean():.4f} (mean of seeds {', '.join(map(str, seeds))}; standard deviation {deviation:.4f}; "
        f"95% interval {format_interval(low, high)}, over seeds and images)"
    )


def _listed(seeds: list[int | None], without: list[int | None]) -> str:
    return ", ".join(str(seed) for seed in seeds if seed not in without) or "none"


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison, or an error of one line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.compare",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m reports.compare outputs/resnet18/DATE outputs/shufflenet_mod/DATE",
    )
    parser.add_argument("run_a", metavar="RUN_A", type=Path, help="folder of a run, or of one run per seed")
    parser.add_argument("run_b", metavar="RUN_B", type=Path, help="the same for the other network")
    parser.add_argument(
        "--good-enough", metavar="MARGIN", type=float, default=0.02,
        help="how far one may be below the other in accuracy and still take its place (default: 0.02)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        check_good_enough(options.good_enough, "--good-enough")
        print("\n".join(map(clean, compare(load(options.run_a), load(options.run_b), options.good_enough))))
    except (UserError, OSError) as error:
        print(f"ERROR: {clean(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
