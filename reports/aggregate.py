"""Turn runs into the rows of a report: runs that differ only in seed or fold are one, and rows on other data are apart."""

from collections import defaultdict

from common.predictions_csv import has_predictions
from common.text import SPLIT_NAMES, clean, numeral
from reports.accuracy import GroupNames, accuracy, correctness_matrix, read_tables
from reports.config_diff import changed_settings, settings_key, value_of
from reports.load_runs import LoadedRuns, Run
from reports.per_setting import compare_settings
from reports.report_data import ReportData, ResultGroup, ResultRow, split_fingerprint
from reports.significance import compare_to_best
from reports.top_losses import TopLosses, top_losses

NOT_A_NAME = {"none", "null", "true", "false", "auto"}  # values that mean nothing without their key


def aggregate(loaded: LoadedRuns, good_enough: float = 0.02, target_accuracy: float | None = None) -> ReportData:
    """Make all that a report shows: rows, grouped by data, ranked by validation accuracy, then MACs, and compared.

    Args:
        loaded: the runs.
        good_enough: accuracy that a smaller network may lack against the best and still be good enough.
        target_accuracy: accuracy that is enough whatever the best has.
    """
    compared = [run for run in loaded.runs if run.status in ("finished", "pruned")]
    keys = changed_settings(compared or loaded.runs)
    excluded = list(loaded.excluded)
    repetitions: dict[tuple, dict[tuple, Run]] = defaultdict(dict)
    for run in sorted(loaded.finished, key=lambda r: str(r.record.run.started_at)):
        same = repetitions[settings_key(run), split_fingerprint(run), _selection(run)]
        earlier = same.get((run.seed, run.fold))
        if earlier:
            excluded.append((str(earlier.folder.path), f"the same settings, seed and fold as the later run {run.name}"))
        same[run.seed, run.fold] = run
    names = GroupNames()
    rows = [_finished_row(list(runs.values()), keys, names) for runs in repetitions.values()]
    unfinished = [_unfinished_row(run, keys) for run in loaded.runs if run.status != "finished"]
    groups = _groups(rows)
    for group in groups:
        compare_to_best(group, good_enough)
        group.target = target_accuracy
        compare_settings(group, unfinished)
    return ReportData(groups, unfinished, excluded, list(keys.values()), loaded.runs)


def _finished_row(runs: list[Run], keys: dict[str, str], names: GroupNames) -> ResultRow:
    runs.sort(key=lambda run: (run.seed or 0, run.fold or 0))
    shown = "test" if all(has_predictions(run.folder, "test") for run in runs) else "val"
    outcomes, accuracies = {}, {}
    for split in SPLIT_NAMES:  # one after the other, since tables may be large
        tables = read_tables(runs, split)
        outcomes[split] = correctness_matrix(runs, tables, names)
        accuracies[split] = accuracy(runs, split, outcomes[split])
        if split == shown:
            losses = top_losses(runs, tables, split)
    return ResultRow(runs, *_changed(runs[0], keys), accuracies, outcomes, losses)


def _unfinished_row(run: Run, keys: dict[str, str]) -> ResultRow:
    outcomes = dict.fromkeys(SPLIT_NAMES, "not finished")
    losses = TopLosses([], "test", "not finished")
    return ResultRow([run], *_changed(run, keys), dict.fromkeys(SPLIT_NAMES), outcomes, losses)


def _changed(run: Run, keys: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the value of each changed setting, and the name that a row has by them."""
    changed = {short: value_of(run, key) for key, short in keys.items()}
    present = {name: value for name, value in changed.items() if value != "-"} or changed
    name = " ".join(f"{key}={value}" for key, value in present.items())
    if len(changed) == 1:
        value = next(iter(present.values()))
        name = name if value.lower() in NOT_A_NAME or numeral(value) is not None else value
    return changed, name or clean(run.model.name or run.name, 60)


def _selection(run: Run) -> tuple[str, str]:
    """Return what rows of one group have in common besides their images: the split that chose the epoch, and classes."""
    return str(run.data.select_on), str(run.data.classes)


def _measured_on(runs: list[Run]) -> list[str]:
    """Name the validation and test images of each run.

    A record without a fingerprint of only those has that of another record with the same images, else the one of all.
    """
    data = [run.data for run in runs]
    known = {str(each.fingerprint): each.fingerprint_val_test for each in data if each.fingerprint_val_test is not None}
    return [str(each.fingerprint_val_test or known.get(str(each.fingerprint)) or each.fingerprint) for each in data]


def _groups(rows: list[ResultRow]) -> list[ResultGroup]:
    """Group rows that have the same validation and test images; of cross-validations in the folds that they share."""
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
    ranked = []
    for _, _, members in sorted(groups, key=lambda entry: -len(entry[2])):
        members.sort(key=_order)
        for rank, row in enumerate(members, 1):
            row.rank = rank
        ranked.append(ResultGroup(members))
    return ranked


def _order(row: ResultRow) -> tuple:
    """Order by accuracy, then cost; what is no better than guessing comes last, so that it is never the best."""
    value = row.ranked_by.value if row.ranked_by else -1.0
    return row.guesses, -value, float("inf") if row.macs is None else row.macs, row.name
