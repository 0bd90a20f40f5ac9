"""The end of a search: retrain the best with several seeds, write pages, and print commands with the best settings."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from common.errors import UserError
from common.flags import own_folders
from common.run_folder import RunFolder, shown_path, shown_script
from common.search_record import SearchRecord, SearchTrial
from common.text import join_words, plural, shell_join
from engine.cli import job_dir_name
from engine.run.last_lines import log_next_commands
from engine.search.settings import SearchSettings
from engine.search.space import as_overrides, run_name
from engine.search.study import best_trials, effective_trials
from engine.search.trial import completed_record, run_trial
from engine.state import STATE

log = logging.getLogger(__name__)

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FEWEST_TRIALS = 4  # finished ones, to compute importances


def selected_trials(settings: SearchSettings, study: optuna.Study) -> list[FrozenTrial]:
    """Return the best trial, or `n_retrain` evenly spaced members of the front, including both ends."""
    front = best_trials(study)
    n = min(settings.n_retrain, len(front))
    if n < 2:
        return front[:1]
    return [front[round(index * (len(front) - 1) / (n - 1))] for index in range(n)]


def retrain(
    settings: SearchSettings, study: optuna.Study, folder: Path, run: Callable
) -> list[tuple[RunFolder, Exception]]:
    """Retrain the selected trials with every seed and test them, skipping finished runs; return the failed runs."""
    selected = selected_trials(settings, study)
    if not selected:
        log.warning("no trial finished, so there is nothing to retrain")
        return []
    if len(settings.objectives) == 1:
        trials = effective_trials(study, settings.space).values()
        log.info(
            "\nThe best trial has %s: one run, selected among %d, so it looks better than it is. "
            "It is retrained with %s",
            _values(settings, selected[0]), sum(trial.state == TrialState.COMPLETE for trial in trials), _seeds(settings),
        )  # fmt: skip
    else:
        front = best_trials(study)
        log.info(
            "\nThe front of the search has %s: %s. Of these %s retrained with %s%s",
            plural(len(front), "member"), _ends(settings, front),
            "1 is" if len(selected) == 1 else f"{len(selected)} are", _seeds(settings),
            f"; n_retrain={len(front)} retrains all of them" if len(selected) < len(front) else "",
        )  # fmt: skip
    failed = []
    jobs = [(trial, seed) for trial in selected for seed in settings.seeds]
    for number, (trial, seed) in enumerate(jobs, 1):
        own = _own_overrides(settings, trial, seed)
        log.info("\nRetraining %d of %d: %s", number, len(jobs), " ".join(own))
        shared = [override for override in settings.base_overrides if not override.startswith("seed=")]
        run_folder = _run_folder(settings, folder, trial, seed)
        if (error := run_trial(run_folder, [*shared, *own], run)) is not None:
            failed.append((run_folder, error))
    return failed


def report_search(settings: SearchSettings, study: optuna.Study, folder: Path, *, is_over: bool) -> None:
    """Write the page of the trials and, once they are over, that of the retrained runs; show its table and commands."""
    trials = effective_trials(study, settings.space).values()
    search_record(settings, study).write(folder)
    states = Counter(trial.state for trial in trials)
    counts = [f"{states[state]} {word}" for state, word in STATES.items() if states[state]]
    here = folder / "trials"
    n_elsewhere = sum(
        trial.state.is_finished() and not (here / run_name(settings.space, trial.params)).is_dir() for trial in trials
    )
    counts += [f"{n_elsewhere} of them in another folder"] if n_elsewhere else []
    selection = "best" if len(settings.objectives) == 1 else "front"
    title = f"{settings.name}: {plural(len(trials), 'trial')} of one run each, among which the {selection} was selected"
    page = _write_page(settings, [here], here, title) if here.is_dir() else "no page"
    lines = [f"{plural(len(trials), 'trial')} ({', '.join(counts)}): {page}", f"Search: {folder}"]
    selected = selected_trials(settings, study) if is_over else []
    run_folders = [_run_folder(settings, folder, trial, seed) for trial in selected for seed in settings.seeds]
    started = [each.path for each in run_folders if each.record.is_file()]
    done = {each: record for each in run_folders if (record := completed_record(each)) is not None}
    if started:
        retrained = f"retrained with {_seeds(settings)}"
        which = f"{' '.join(as_overrides(settings.space, selected[0].params))}, the best"
        title = f"{settings.name}: {which if selection == 'best' else 'the front'} of {plural(len(trials), 'trial')}"
        page = _write_page(settings, started, folder, f"{title}, {retrained}", show=True)
        n_done, n = len(done), len(run_folders)
        state = retrained if n_done == n else f"{n_done} of {n} retrainings done so far"
        lines = [
            f"Page: {page}",
            *lines,
            "",
            f"{'Best settings' if selection == 'best' else 'Settings of the front'}, {state}:",
        ]
        for trial in selected:
            command = [
                "python",
                shown_script("train.py"),
                *own_folders(STATE.command),
                *settings.base_overrides,
                *as_overrides(settings.space, trial.params),
            ]
            lines += [
                f"    {shell_join(command)}",
                f"        in the search {_values(settings, trial)}: one run, selected for it",
            ]
            of_trial = [_run_folder(settings, folder, trial, seed) for seed in settings.seeds]
            lines += [f"        trained: {shown_path(each.best_checkpoint)}" for each in of_trial if each in done]
    print("\n" + "\n".join(lines))
    if done:
        first, record = next(iter(done.items()))
        log_next_commands(record, first.best_checkpoint)


def search_record(settings: SearchSettings, study: optuna.Study) -> SearchRecord:
    """Return the record of a search, from which its pages are made."""
    trials = [
        SearchTrial(
            state=STATES[trial.state],
            values=list(trial.values or []),
            name=" ".join(as_overrides(settings.space, trial.params)),
            folder=run_name(settings.space, trial.params),
        )
        for trial in effective_trials(study, settings.space).values()
    ]
    importance, missing = _importance(settings, study)
    return SearchRecord(
        name=settings.name,
        objectives=[each.key for each in settings.objectives],
        maximize=[each.direction == "maximize" for each in settings.objectives],
        trials=trials,
        importance=importance,
        no_importance=missing,
    )


def _importance(settings: SearchSettings, study: optuna.Study) -> tuple[dict[str, float], str | None]:
    """Return Optuna's importance of each setting for the objective or objectives, or the reason why there is none."""
    n = sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
    if len(settings.space) < 2:
        return {}, "only one setting was searched"
    if n < FEWEST_TRIALS:
        return {}, f"{plural(n, 'finished trial')} {'is' if n == 1 else 'are'} too few; it takes {FEWEST_TRIALS}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features
            found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError, ImportError) as error:
        return {}, f"Optuna cannot compute it: {' '.join(str(error).split())[:200]}"
    if not found or not all(map(math.isfinite, found.values())):
        return {}, "the trials do not differ enough for Optuna to compute it"
    return dict(found), None


def describe_best(settings: SearchSettings, study: optuna.Study) -> list[str]:
    """Return a part of a line with the best trial or the ends of the front; no part where no trial has finished."""
    best = best_trials(study)
    if not best:
        return []
    if len(settings.objectives) > 1:
        return [f"front so far: {_ends(settings, best)}"]
    return [f"best so far {_values(settings, best[0])} by {' '.join(as_overrides(settings.space, best[0].params))}"]


def _ends(settings: SearchSettings, front: list[FrozenTrial]) -> str:
    """Return `val accuracy 0.8311 with MACs 38.9M to val accuracy 0.7500 with MACs 5.1M`."""
    ends = front if len(front) == 1 else [front[0], front[-1]]
    return " to ".join(_values(settings, trial) for trial in ends)


def _values(settings: SearchSettings, trial: FrozenTrial) -> str:
    return " with ".join(each.format(value) for each, value in zip(settings.objectives, trial.values, strict=True))


def _seeds(settings: SearchSettings) -> str:
    return f"seed{'s' if len(settings.seeds) > 1 else ''} {join_words(list(map(str, settings.seeds)), 10)}"


def _own_overrides(settings: SearchSettings, trial: FrozenTrial, seed: int) -> list[str]:
    return [*as_overrides(settings.space, trial.params), f"seed={seed}"]


def _run_folder(settings: SearchSettings, folder: Path, trial: FrozenTrial, seed: int) -> RunFolder:
    return RunFolder(folder / "retrained" / job_dir_name(_own_overrides(settings, trial, seed), []))


def _write_page(settings: SearchSettings, runs: list[Path], out: Path, title: str, *, show: bool = False) -> Path | str:
    """Write a report and return its page, showing its text if `show`; if that fails, log why and return `no page`."""
    try:
        from reports.report import write_report  # late: it imports scipy

        written = write_report(list(map(str, runs)), out=str(out), title=title, good_enough=settings.good_enough)
    except Exception as error:  # a failed page must not fail the runs, which are recorded
        known = isinstance(error, UserError)
        log.error("%s: no report: %s", out, error if known else repr(error), exc_info=not known)
        return "no page"
    if show:
        print(f"\n{written.text}")
    else:
        for why in written.excluded:
            log.warning("excluded: %s", why)
    return written.page
