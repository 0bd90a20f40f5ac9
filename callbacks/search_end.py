"""The end of a search: the best is trained again with several seeds; pages, and the command of the best settings."""

import logging
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from reports.words import listed, plural

from . import command_line
from .search_settings import Settings
from .search_space import as_overrides
from .study import best_trials, counted
from .trials import perform_trial, settled

log = logging.getLogger(__name__)


def winners(settings: Settings, study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or `retrain` members of the front with both of its ends."""
    front = best_trials(study)
    most = min(settings.retrain, len(front))
    if most < 2:
        return front[:1]
    return [front[round(index * (len(front) - 1) / (most - 1))] for index in range(most)]


def train_again(settings: Settings, study: optuna.Study, folder: Path, run: Callable) -> list[tuple[Path, Exception]]:
    """Trains the winners with every seed, test included, unless that was done before; returns what failed."""
    chosen = winners(settings, study)
    if not chosen:
        log.warning("no trial was finished, so there is nothing to train again")
        return []
    seeds = listed(list(map(str, settings.seeds)), 10)
    finished = sum(trial.state == TrialState.COMPLETE for trial in counted(study.get_trials(deepcopy=False)))
    if len(settings.objectives) == 1:
        value = settings.objectives[0].say(chosen[0].value)
        log.info(
            "\nThe best of the search has %s: one run, chosen among %d, which flatters it. It is trained again with seeds %s",
            value, finished, seeds,
        )  # fmt: skip
    else:
        front = best_trials(study)
        log.info(
            "\nThe front of the search has %s: %s. Of these %s trained again with seeds %s%s",
            plural(len(front), "member"), front_in_words(settings, front), "1 is" if len(chosen) == 1 else f"{len(chosen)} are",
            seeds, f"; retrain={len(front)} takes them all" if len(chosen) < len(front) else "",
        )  # fmt: skip
    failed = []
    jobs = [(trial, seed) for trial in chosen for seed in settings.seeds]
    for number, (trial, seed) in enumerate(jobs, 1):
        place, overrides = _job(settings, folder, trial, seed)
        log.info("\nTrains again, %d of %d: %s", number, len(jobs), " ".join(overrides[len(_base(settings)) :]))
        error = perform_trial(place, overrides, run)
        if error is not None:
            failed.append((place, error))
    return failed


def show(settings: Settings, study: optuna.Study, folder: Path) -> None:
    """Writes both pages; prints the table of those trained again, and the commands of the best settings."""
    trials = counted(study.get_trials(deepcopy=False))
    states = Counter(trial.state for trial in trials)
    counts = [f"{states[TrialState.COMPLETE]} finished", f"{states[TrialState.PRUNED]} pruned"]
    counts += [f"{states[TrialState.FAIL]} failed"] if states[TrialState.FAIL] else []
    counts += [f"{states[TrialState.RUNNING]} running"] if states[TrialState.RUNNING] else []
    seeds = listed(list(map(str, settings.seeds)), 10)
    chosen = winners(settings, study)
    jobs = [_job(settings, folder, trial, seed)[0] for trial in chosen for seed in settings.seeds]
    begun = [place for place in jobs if (place / "result.json").is_file()]
    page = None
    if begun:
        what = "the best" if len(settings.objectives) == 1 else "the front"
        title = f"{settings.name}: {what} of {plural(len(trials), 'trial')}, trained again with seeds {seeds}"
        page = _write(list(map(str, begun)), folder, title, prints=True)
    title = f"{settings.name}: {plural(len(trials), 'trial')} of one run each, the choice and not the result"
    of_trials = _write(str(folder / "trials"), folder / "trials", title, prints=False)
    print(f"\n{plural(len(trials), 'trial')}: {', '.join(counts)}; {f'Page: {of_trials}' if of_trials else 'no page'}")
    if page:
        print(f"Page: {page}")
    print(f"Search: {folder}")
    _print_commands(settings, chosen, sum(settled(place) is not None for place in jobs), len(jobs), seeds)


def front_in_words(settings: Settings, front: list[FrozenTrial]) -> str:
    """`val accuracy 0.8311 with MACs 38.9M to val accuracy 0.7500 with MACs 5.1M`."""
    ends = [front[0], *([front[-1]] if len(front) > 1 else [])]
    return " to ".join(
        " with ".join(objective.say(value) for objective, value in zip(settings.objectives, trial.values, strict=True))
        for trial in ends
    )


def _print_commands(settings: Settings, chosen: list[FrozenTrial], done: int, jobs: int, seeds: str) -> None:
    if not chosen:
        return
    which = "Best settings" if len(settings.objectives) == 1 else "Settings of the front"
    state = f"trained again with seeds {seeds}" if done == jobs else f"{done} of {jobs} times trained again so far"
    print(f"\n{which}, {state}:")
    for trial in chosen:
        command = ["python", "train.py", *settings.base, *as_overrides(settings.space, trial.params)]
        print(f"    {shlex.join(command)}")


def _base(settings: Settings) -> list[str]:
    """Of runs that have a seed of their own."""
    return [override for override in settings.base if not override.startswith("seed=")]


def _job(settings: Settings, folder: Path, trial: FrozenTrial, seed: int) -> tuple[Path, list[str]]:
    """Folder and arguments of a winner with a seed."""
    own = [*as_overrides(settings.space, trial.params), f"seed={seed}"]
    return folder / "trained_again" / command_line.job_folder(own, []), [*_base(settings), *own]


def _write(where: str | list[str], out: Path, title: str, *, prints: bool) -> Path | None:
    try:
        from reports.writing import write_report  # late: it needs scipy

        written = write_report(where, out=str(out), title=title)
    except Exception as error:  # the runs are done and recorded: a defect here must not take them with it
        known = isinstance(error, ValueError)
        log.error("%s: no report: %s", out, error if known else repr(error), exc_info=not known)
        return None
    for text in written.warnings:
        log.warning("left out: %s", text)
    if prints:
        print(f"\n{written.text}")
    return written.page
