"""What it takes to reproduce a sweep (commands, seeds, versions, code, device, data), and a page's title."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.text import capped, clean, duration, join_words, plural
from reports.load_runs import Run
from reports.report_data import ReportData, which
from reports.run_links import link

MOST = 20
MOST_RUNS = 200


def provenance(data: ReportData, folder: Path) -> dict:
    """Return commands, facts (name, value), warnings and the list of the runs, for the page in a folder."""
    runs = data.runs
    commands = Counter(run.record.run.command for run in runs)
    shown = [command for command, _ in commands.most_common() if command]
    warnings = Counter(clean(text) for run in runs for text in run.record.run.warnings if not _is_reason(text, run))
    listed = [f"{text}{f' (in {n:,} runs)' if n > 1 else ''}" for text, n in warnings.most_common()]
    first = f", the first {MOST_RUNS} of them" if len(runs) > MOST_RUNS else ""
    return {
        "commands": capped(shown, MOST, "# and {:,} more commands"),
        "facts": facts(runs),
        "warnings": capped(listed, MOST, "and {:,} more warnings"),
        "runs": [(link(run.folder.path, folder, run.name), *_line(run)) for run in runs[:MOST_RUNS]],
        "runs_title": f"{plural(len(runs), 'run')}{first}",
    }


def _is_reason(warning: str, run: Run) -> bool:
    """Return whether a warning is the error that ended a run, which the page gives as its reason."""
    return bool(run.record.reason) and warning.endswith(run.record.reason)


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return names and values; if runs differ, each value with its number of runs."""
    about = [run.record.run for run in runs]
    data = [run.data for run in runs]
    names = list(dict.fromkeys(name for each in about for name in each.versions))
    versions = [f"{name} {_each([each.versions.get(name) for each in about])}" for name in names]
    changed = ["yes" if each.git_dirty else "no" for each in about if each.git_dirty is not None]
    lines = [
        ("seeds", join_words(sorted({str(each.seed) for each in about}, key=lambda s: (len(s), s)), 20)),
        ("data", _each([each.name for each in data])),
        ("data fingerprint", _each([each.fingerprint for each in data])),
        ("fingerprint of val and test", _each([each.fingerprint_val_test for each in data])),
        ("images", _each([_sizes(run) for run in runs])),
        ("classes", _each([", ".join(each.classes) for each in data])),
        ("git commit", _each([each.git_commit for each in about])),
        ("uncommitted changes", _each(changed)),
        ("device", _each([each.device for each in about])),
        ("processes", _each([each.processes for each in about])),
        ("threads", _each([each.threads for each in about])),
        ("versions", ", ".join(versions)),
        ("initial weights", _each([run.model.weights for run in runs])),
        ("total time", duration(sum(each.wall_time_s or 0 for each in about))),
    ]
    return [(name, value) for name, value in lines if value]


def title_of(data: ReportData) -> str:
    """Return the experiment's name, or what differs between the runs, as a question.

    For several groups without a common question, return how many there are.
    """
    experiments = {clean(run.record.run.choices.get("experiment") or "") for run in data.runs}
    name = experiments.pop() if len(experiments) == 1 else None
    has_studies = any(group.study for group in data.groups)
    if len(data.groups) > 1 and (has_studies or not (name or any(len(group.rows) > 1 for group in data.groups))):
        return f"{plural(len(data.runs), 'run')} in {plural(len(data.groups), 'group')}"
    question = which(data.changed) if data.changed else "How good is it?" if data.groups else "No finished run"
    return clean(f"{name}: {question[0].lower()}{question[1:]}" if name else question, 120)


def _sizes(run: Run) -> str:
    sizes = {"train": run.data.n_train, "val": run.data.n_val, "test": run.data.n_test}
    return ", ".join(f"{n:,} {split}" for split, n in sizes.items() if n is not None)


def _each(values: Sequence) -> str:
    """Return the only value, or each value with its number of runs; empty if there is none."""
    found = Counter(clean(value, 300) for value in values if value is not None and value != "")
    if len(found) == 1 and found.total() == len(values):
        return next(iter(found))
    counts = [f"{value} ({n:,} of {plural(len(values), 'run')})" for value, n in found.most_common(6)]
    return join_words(counts, 6) if counts else ""


def _line(run: Run) -> tuple[str, ...]:
    about = run.record.run
    fold = "-" if run.fold is None else str(run.fold)
    return run.status, str(run.seed), fold, clean(about.started_at, 40), duration(about.wall_time_s)
