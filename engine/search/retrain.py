"""The end of a search: the best is trained again with several seeds; pages, and the command of the best settings."""

import logging
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from common.text import join_words, plural
from engine import cli
from engine.search.settings import SearchSettings
from engine.search.space import as_overrides
from engine.search.study import FOLDER, best_trials, effective_trials
from engine.search.trial import completed_record, run_trial

log = logging.getLogger(__name__)

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def selected_trials(settings: SearchSettings, study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or `retrain` members of the front with both of its ends."""
    front = best_trials(study)
    most = min(settings.retrain, len(front))
    if most < 2:
        return front[:1]
    return [front[round(index * (len(front) - 1) / (most - 1))] for index in range(most)]


def retrain(settings: SearchSettings, study: optuna.Study, folder: Path, run: Callable) -> list[tuple[Path, Exception]]:
    """Trains the winners with every seed, test included, unless that was done before; returns what failed."""
    chosen = selected_trials(settings, study)
    if not chosen:
        log.warning("no trial was finished, so there is nothing to train again")
        return []
    seeds = _seeds(settings)
    finished = sum(trial.state == TrialState.COMPLETE for trial in effective_trials(study.get_trials(deepcopy=False)))
    if len(settings.objectives) == 1:
        log.info(
            "\nThe best of the search has %s: one run, chosen among %d, which flatters it. It is trained again with %s",
            _values(settings, chosen[0]), finished, seeds,
        )  # fmt: skip
    else:
        front = best_trials(study)
        log.info(
            "\nThe front of the search has %s: %s. Of these %s trained again with %s%s",
            plural(len(front), "member"), front_in_words(settings, front), "1 is" if len(chosen) == 1 else f"{len(chosen)} are",
            seeds, f"; retrain={len(front)} takes them all" if len(chosen) < len(front) else "",
        )  # fmt: skip
    failed = []
    jobs = [(trial, seed) for trial in chosen for seed in settings.seeds]
    for number, (trial, seed) in enumerate(jobs, 1):
        place, overrides = _job(settings, folder, trial, seed)
        log.info("\nTrains again, %d of %d: %s", number, len(jobs), " ".join(overrides[len(_base(settings)) :]))
        error = run_trial(place, overrides, run)
        if error is not None:
            failed.append((place, error))
    return failed


def report_search(settings: SearchSettings, study: optuna.Study, folder: Path, *, is_over: bool) -> None:
    """Writes the page of the trials; once they are over that of the winners, its table and the commands of their settings."""
    trials = effective_trials(study.get_trials(deepcopy=False))
    states = Counter(trial.state for trial in trials)
    counts = [f"{states[state]} {word}" for state, word in STATES.items() if states[state]]
    which = "the best" if len(settings.objectives) == 1 else "the front"
    title = f"{settings.name}: the {plural(len(trials), 'trial')} of one run each, among which {which} was chosen"
    here = folder / "trials"
    there = [
        each for each in trials if each.state.is_finished() and not (here / each.user_attrs.get(FOLDER, "-")).is_dir()
    ]
    counts += [f"{len(there)} of them ran in a folder elsewhere"] if there else []
    page = _write(here, here, title) if here.is_dir() else "no page"
    lines = [f"{plural(len(trials), 'trial')} ({', '.join(counts)}): {page}", f"Search: {folder}"]
    if is_over:
        lines = _winners_in_words(settings, selected_trials(settings, study), folder, lines)
    print("\n" + "\n".join(lines))


def _winners_in_words(settings: SearchSettings, chosen: list[FrozenTrial], folder: Path, lines: list[str]) -> list[str]:
    """Writes their page and prints its table; returns the last lines, of which `lines` are some."""
    jobs = [_job(settings, folder, trial, seed)[0] for trial in chosen for seed in settings.seeds]
    begun = [str(place) for place in jobs if (place / "result.json").is_file()]
    if not begun:
        return lines
    again = f"trained again with {_seeds(settings)}"
    one = len(settings.objectives) == 1
    which = f"{' '.join(as_overrides(settings.space, chosen[0].params))}, the best" if one else "the front"
    page = _write(begun, folder, f"{settings.name}: {which} of {lines[0].partition(' (')[0]}, {again}", prints=True)
    done = sum(completed_record(place) is not None for place in jobs)
    state = again if done == len(jobs) else f"{done} of {len(jobs)} times trained again so far"
    lines = [f"Page: {page}", *lines, "", f"{'Best settings' if one else 'Settings of the front'}, {state}:"]
    for trial in chosen:
        command = ["python", "train.py", *settings.base, *as_overrides(settings.space, trial.params)]
        lines += [
            f"    {shlex.join(command)}",
            f"        in the search {_values(settings, trial)}: one run, chosen for it",
        ]
    return lines


def best_so_far(settings: SearchSettings, study: optuna.Study) -> list[str]:
    """One part of a line, or none where no trial is finished."""
    best = best_trials(study)
    if not best:
        return []
    if len(settings.objectives) > 1:
        return [f"front so far: {front_in_words(settings, best)}"]
    return [f"best so far {_values(settings, best[0])} by {' '.join(as_overrides(settings.space, best[0].params))}"]


def front_in_words(settings: SearchSettings, front: list[FrozenTrial]) -> str:
    """`val accuracy 0.8311 with MACs 38.9M to val accuracy 0.7500 with MACs 5.1M`."""
    ends = [front[0], *([front[-1]] if len(front) > 1 else [])]
    return " to ".join(_values(settings, trial) for trial in ends)


def _values(settings: SearchSettings, trial: FrozenTrial) -> str:
    return " with ".join(each.say(value) for each, value in zip(settings.objectives, trial.values, strict=True))


def _seeds(settings: SearchSettings) -> str:
    return f"seed{'s' if len(settings.seeds) > 1 else ''} {join_words(list(map(str, settings.seeds)), 10)}"


def _base(settings: SearchSettings) -> list[str]:
    """Of runs that have a seed of their own."""
    return [override for override in settings.base if not override.startswith("seed=")]


def _job(settings: SearchSettings, folder: Path, trial: FrozenTrial, seed: int) -> tuple[Path, list[str]]:
    """Folder and arguments of a winner with a seed."""
    own = [*as_overrides(settings.space, trial.params), f"seed={seed}"]
    return folder / "trained_again" / cli.job_dir_name(own, []), [*_base(settings), *own]


def _write(where: Path | list[str], out: Path, title: str, *, prints: bool = False) -> Path | str:
    try:
        from reports.report import write_report  # late: it needs scipy

        written = write_report(where if isinstance(where, list) else str(where), out=str(out), title=title)
    except Exception as error:  # the runs are done and recorded: a defect here must not take them with it
        known = isinstance(error, ValueError)
        log.error("%s: no report: %s", out, error if known else repr(error), exc_info=not known)
        return "no page"
    for text in written.warnings:
        log.warning("left out: %s", text)
    if prints:
        print(f"\n{written.text}")
    return written.page
