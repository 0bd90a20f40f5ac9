"""Turn runs into a report's rows: runs that differ only in seed or fold are one row, rows on different data are apart."""

import copy
import logging
import os
from collections import Counter, defaultdict
from pathlib import Path

from common.run_record import DIGESTS
from common.text import SPLIT_NAMES, clean
from reports.accuracy import CorrectnessMatrix, GroupNames, accuracy, correctness_matrix, has_tables, read_tables
from reports.config_diff import changed_settings, settings_key, values_of
from reports.load_runs import LoadedRuns, Run
from reports.per_setting import compare_settings
from reports.report_data import ReportData, ResultGroup, ResultRow, by_settings, split_fingerprint
from reports.significance import compare_to_best
from reports.studies import Study
from reports.top_losses import TopLosses, top_losses

log = logging.getLogger(__name__)

MOST_NAMED = 6  # settings in the name of a row; rows that differ in more have the name of their folder


def aggregate(loaded: LoadedRuns, good_enough: float = 0.02, target_accuracy: float | None = None) -> ReportData:
    """Make everything that a report shows: rows grouped by data, ranked by validation accuracy, then MACs, and compared.

    Args:
        good_enough: how far below the best a smaller network may be in accuracy and still be good enough.
        target_accuracy: accuracy that is enough whatever the best has.
    """
    finished, of_evaluations = _join_evaluations(loaded.finished)
    excluded = [*loaded.excluded, *of_evaluations]
    repetitions: dict[tuple, dict[tuple, Run]] = defaultdict(dict)
    of_others = _only_digests(finished)
    for run in finished:
        settings = _settings_and_images(run)
        key = *settings, *(own or of_others[settings, number] for number, own in enumerate(_digests(run)))
        earlier = repetitions[key].get((run.seed, run.fold))
        if earlier and _evaluated_file(earlier) != _evaluated_file(run):
            key = *key, _evaluated_file(run)
            earlier = repetitions[key].get((run.seed, run.fold))
        same = repetitions[key]
        if earlier:
            here, later = str(earlier.folder.path), run.folder.path
            excluded.append((here, f"{here}: the same settings, seed and fold as the later run {later}"))
        same[run.seed, run.fold] = run
    names = GroupNames()
    rows = [_finished_row(list(runs.values()), names) for runs in repetitions.values()]
    _share_groups(rows)
    unfinished = [_unfinished_row(run) for run in loaded.runs if run.status != "finished"]
    groups = []
    for study in _by_date(rows):
        of_study, pending = ([row for row in part if row.study == study] for part in (rows, unfinished))
        for group in _groups(of_study):
            _name(group, pending)
            _rank(group)
            compare_to_best(group, good_enough)
            group.target, group.n_unfinished = target_accuracy, len(pending)
            compare_settings(group, pending)
            groups.append(group)
    return ReportData(groups, unfinished, excluded, loaded.runs)


def _join_evaluations(runs: list[Run]) -> tuple[list[Run], list[tuple[str, str]]]:
    """Give trainings without test results those of their first evaluation in another folder.

    Return the runs without such evaluations, ordered by their start, and the folder of each evaluation with what became of it.
    """
    trained = {_network(run): run for run in runs if run.record.best}
    folders = {os.path.abspath(run.folder.path): run for run in runs}  # noqa: PTH100 of a run that may be gone
    joined, reasons = {}, []
    for run in sorted(runs, key=lambda r: str(r.record.run.started_at)):
        given, record, here = folders.get(_evaluated(run)), run.record, str(run.folder.path)
        first = given or trained.get(_network(run))
        if given and _measured(given) != _measured(run):
            first = None  # perhaps measured on other images: another network may have been trained there since
        if not first or record.best or not (record.test or record.val):
            joined.setdefault(run.folder.path, run)
            continue
        # The record's test section may contain only the number of evaluations made elsewhere
        known = joined.get(first.folder.path, first)
        if not record.test or (known.record.test and known.record.test.accuracy):
            reasons.append((here, f"{here}: evaluates the network of {first.folder.path} again on the same images"))
        elif record.test.part:
            joined[run.folder.path] = run
        else:
            joined[first.folder.path] = known._replace(record=copy.copy(known.record), test_folder=run.folder)
            joined[first.folder.path].record.test = record.test
            reasons.append((here, f"{here}: no row of its own; its test results are in the row of {first.folder.path}"))
    return sorted(joined.values(), key=lambda r: str(r.record.run.started_at)), reasons


def _settings_and_images(run: Run) -> tuple:
    return run.study, settings_key(run), split_fingerprint(run), _selection(run)


def _digests(run: Run) -> list[str | None]:
    """Return digests of all folds' images and of the files of weights and teacher; None if absent or from an older version."""
    return [run.data.fingerprint_folds, *(getattr(run.model, field) for field in DIGESTS.values())]


def _only_digests(runs: list[Run]) -> dict[tuple, str | None]:
    """Return the digest of the runs with the same settings and images if it is unique: runs of older versions join them."""
    found = defaultdict(set)
    for run in runs:
        key = _settings_and_images(run)
        for number, digest in enumerate(_digests(run)):
            found[key, number].add(digest)
    known = {key: digests - {None} for key, digests in found.items()}
    return {key: min(digests) if len(digests) == 1 else None for key, digests in known.items()}


def _by_date(rows: list[ResultRow]) -> list[Study | None]:
    """Return the studies, the one with the latest run first; runs without a study come last."""
    latest: dict[Study | None, str] = {}
    for row in rows:
        latest[row.study] = max(latest.get(row.study, ""), *(str(run.record.run.started_at) for run in row.runs))
    return sorted(latest, key=lambda study: (study is not None, latest[study]), reverse=True)


def _finished_row(runs: list[Run], names: GroupNames) -> ResultRow:
    runs.sort(key=lambda run: (run.seed or 0, run.fold or 0))
    shown = "test" if has_tables(runs, "test") else "val"
    outcomes, accuracies = {}, {}
    for split in SPLIT_NAMES:  # one at a time, because tables may be large
        tables = read_tables(runs, split)
        if isinstance(tables, str) and has_tables(runs, split):
            log.warning("%s images are not compared: %s", SPLIT_NAMES[split], tables)
        outcomes[split] = correctness_matrix(runs, tables, names)
        accuracies[split] = accuracy(runs, split, outcomes[split])
        if split == shown:
            losses = top_losses(runs, tables, split)
    return ResultRow(runs, accuracies, outcomes, losses)


def _share_groups(rows: list[ResultRow]) -> None:
    """Give rows without groups the groups that another row has for the same images, as their comparison needs them."""
    for split in SPLIT_NAMES:
        found = [(row, row.outcomes[split]) for row in rows if isinstance(row.outcomes[split], CorrectnessMatrix)]
        known = {each.images: each.groups for _, each in found if each.groups is not None}
        for row, each in found:
            if each.groups is None and each.images in known:
                row.outcomes[split] = each._replace(groups=known[each.images])
                row.accuracies[split] = accuracy(row.runs, split, row.outcomes[split])


def _unfinished_row(run: Run) -> ResultRow:
    outcomes = dict.fromkeys(SPLIT_NAMES, "not finished")
    losses = TopLosses([], "test", "not finished")
    return ResultRow([run], dict.fromkeys(SPLIT_NAMES), outcomes, losses)


def _name(group: ResultGroup, unfinished: list[ResultRow]) -> None:
    """Set the rows' changed settings and names, `keep=4 lr=0.001`: what differs in the group.

    A single row has the name of its network, unless unfinished rows differ from it.
    """
    rows = group.rows if len(group.rows) > 1 else [*group.rows, *unfinished]
    pruned = [row for row in unfinished if row.status == "pruned"]
    keys = changed_settings([run for row in (*rows, *pruned) for run in row.runs])
    group.changed = list(keys.values())
    named = [*group.rows, *unfinished]
    values = {short: values_of([row.runs[0] for row in named], key) for key, short in keys.items()}
    for i, row in enumerate(named):
        row.changed = {short: texts[i] for short, texts in values.items()}
    for row in group.rows:
        present = {name: value for name, value in row.changed.items() if value != "-"} or row.changed
        name = " ".join(f"{key}={value}" for key, value in present.items())
        own = row.runs[0].name if len(present) > MOST_NAMED else row.runs[0].model.name or row.runs[0].name
        row.name = name if name and len(present) <= MOST_NAMED else clean(own, 60)
    names = Counter(row.name for row in group.rows)
    for row in group.rows:
        if names[row.name] > 1:  # e.g. one setting before and after images were added
            row.name = f"{row.name} ({clean(row.runs[0].name, 60)})"


def _rank(group: ResultGroup) -> None:
    """Order rows by accuracy, cost and settings; rows no better than guessing come last of those with an accuracy."""
    group.rows.sort(
        key=lambda row: (
            row.ranked_by is None,
            row.guesses,
            -(row.ranked_by.value if row.ranked_by else -1.0),
            float("inf") if row.macs is None else row.macs,
            by_settings(row),
        )
    )
    for rank, row in enumerate(group.rows, 1):
        row.rank = rank


def _selection(run: Run) -> tuple[str, str]:
    """Return what the rows of a group share besides their images: the split that chose the epoch, and the classes."""
    return str(run.data.select_on), str(run.data.classes)


def _network(run: Run) -> tuple:
    """Return a key that is the same for the training of a network and its evaluation on the same images."""
    return *_measured(run), settings_key(run, of_network=True), run.seed, run.fold


def _measured(run: Run) -> tuple:
    """Return a key that is the same for runs that measured the same metrics on the same images."""
    metrics = {key: value for key, value in run.record.run.settings.items() if key.split(".")[0] == "metrics"}
    images = split_fingerprint(run), str(run.data.fingerprint_val_test), _selection(run)
    return run.study, *images, str(metrics)


def _evaluated(run: Run) -> str:
    """Return the folder of the run whose checkpoint this run was given; "" if it was given none."""
    path = _ckpt_path(run)
    return os.path.abspath(Path(path).parent.parent) if path else ""  # noqa: PTH100 the record is not to be trusted


def _evaluated_file(run: Run) -> str:
    """Return the checkpoint that a run was given and only evaluated; "" if it trained a network."""
    return "" if run.record.best else _ckpt_path(run)


def _ckpt_path(run: Run) -> str:
    typed = {
        key.lstrip("+"): value.strip("'\"") for key, _, value in (o.partition("=") for o in run.record.run.overrides)
    }
    return typed.get("ckpt_path", "")


def _measured_on(runs: list[Run]) -> list[str]:
    """Return a fingerprint of the validation and test images of each run.

    If a record has none for these images, take that of another record with the same images, else the one of all images.
    """
    data = [run.data for run in runs]
    known = {str(each.fingerprint): each.fingerprint_val_test for each in data if each.fingerprint_val_test is not None}
    return [str(each.fingerprint_val_test or known.get(str(each.fingerprint)) or each.fingerprint) for each in data]


def _groups(rows: list[ResultRow]) -> list[ResultGroup]:
    """Group rows that have the same validation and test images; for cross-validations, in the folds that they share."""
    runs = [run for row in rows for run in row.runs]
    measured_on = {id(run): name for run, name in zip(runs, _measured_on(runs), strict=True)}
    groups: list[tuple[tuple, dict, list[ResultRow]]] = []
    for row in rows:
        prints = {run.fold: measured_on[id(run)] for run in row.runs}
        key = prints.get(None), _selection(row.runs[0])  # each fold has splits of its own
        for other, seen, members in groups:
            common = prints.keys() & seen.keys()
            if key == other and common and all(prints[fold] == seen[fold] for fold in common):
                members.append(row)
                seen.update(prints)
                break
        else:
            groups.append((key, prints, [row]))
    return [ResultGroup(members) for _, _, members in sorted(groups, key=lambda entry: -len(entry[2]))]
