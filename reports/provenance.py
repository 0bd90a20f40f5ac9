"""What is needed to run a sweep again, and its title: commands, seeds, versions, code, device, data."""

from collections import Counter
from collections.abc import Sequence

from common.text import clean, duration, finite_number, join_words, plural
from reports.aggregate import ReportData
from reports.load_runs import Run

MOST = 20
MOST_RUNS = 200


def provenance(summary: ReportData) -> dict:
    """Commands, facts (name, value), warnings and the list of the runs, for the page."""
    runs = summary.runs
    commands = Counter(str(run.record["run"].get("command") or "") for run in runs)
    shown = [command for command, _ in commands.most_common(MOST) if command]
    if len(commands) > MOST:
        shown.append(f"# and {len(commands) - MOST:,} further commands")
    warnings = Counter(clean(text) for run in runs for text in run.record["run"]["warnings"])
    told = [f"{text}{f' (in {n:,} runs)' if n > 1 else ''}" for text, n in warnings.most_common(MOST)]
    if len(warnings) > MOST:
        told.append(f"and {len(warnings) - MOST:,} further warnings")
    capped = f", the first {MOST_RUNS} of them" if len(runs) > MOST_RUNS else ""
    return {
        "commands": shown,
        "facts": facts(runs),
        "warnings": told,
        "runs": [_line(run) for run in runs[:MOST_RUNS]],
        "runs_title": f"{plural(len(runs), 'run')}{capped}",
    }


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Name and value; where runs differ, each value with its number of runs."""
    about = [run.record["run"] for run in runs]
    data = [run.record["data"] or {} for run in runs]
    names = list(dict.fromkeys(name for each in about for name in each["versions"]))
    sizes = [
        ", ".join(f"{d[f'n_{s}']} {s}" for s in ("train", "val", "test") if d.get(f"n_{s}") is not None) for d in data
    ]
    lines = [
        ("seeds", join_words(sorted({str(each["seed"]) for each in about}, key=lambda s: (len(s), s)), 20)),
        ("data", _each([d.get("name") for d in data])),
        ("data fingerprint", _each([d.get("fingerprint") for d in data])),
        ("fingerprint of val and test", _each([d.get("fingerprint_val_test") for d in data])),
        ("images", _each(sizes)),
        (
            "classes",
            _each([", ".join(map(str, d["classes"])) if isinstance(d.get("classes"), list) else None for d in data]),
        ),
        ("git commit", _each([each.get("git_commit") for each in about])),
        (
            "code changed after it",
            _each(["yes" if each["git_dirty"] else "no" for each in about if each.get("git_dirty") is not None]),
        ),
        ("device", _each([each.get("device") for each in about])),
        ("processes", _each([each.get("processes") for each in about])),
        ("threads", _each([each.get("threads") for each in about])),
        ("versions", ", ".join(f"{name} {_each([each['versions'].get(name) for each in about])}" for name in names)),
        ("initial weights", _each([(run.record["model"] or {}).get("weights") for run in runs])),
        ("time together", duration(sum(finite_number(each.get("wall_time_s")) or 0 for each in about))),
    ]
    return [(name, value) for name, value in lines if value]


def title_of(summary: ReportData) -> str:
    """The experiment's name, or what differs between the runs, as a question."""
    experiments = {clean(run.record["run"]["choices"].get("experiment") or "") for run in summary.runs}
    name = experiments.pop() if len(experiments) == 1 else None
    if summary.columns:
        question = f"Which {join_words([column.replace('_', ' ') for column in summary.columns], 4)}?"
    else:
        question = "How good is it?"
    return clean(f"{name}: {question[0].lower()}{question[1:]}" if name else question, 120)


def _each(values: Sequence) -> str:
    """One value, or each with its number of runs; empty where there is none."""
    found = Counter(clean(value, 300) for value in values if value is not None and value != "")
    if len(found) == 1 and found.total() == len(values):
        return next(iter(found))
    return (
        join_words([f"{value} ({n:,} of {plural(len(values), 'run')})" for value, n in found.most_common(6)], 6)
        if found
        else ""
    )


def _line(run: Run) -> tuple[str, ...]:
    about = run.record["run"]
    fold = "-" if run.fold is None else str(run.fold)
    started = clean(about.get("started_at"), 40)
    return (
        run.name,
        run.record["status"],
        str(run.seed),
        fold,
        started,
        duration(finite_number(about.get("wall_time_s"))),
    )
