"""The study in Optuna: where it is kept, what is proposed, which of its trials count, and those whose process is gone."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from common.text import join_words
from engine.search import processes
from engine.search.objectives import Objective

log = logging.getLogger(__name__)

JOURNAL = "study.journal"
LOST = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
TRIED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
ASKED = "asked"  # what we note of a study
PROCESS, AGAIN, WITHDRAWN, FOLDER = "process", "again", "withdrawn", "folder"  # what we note of a trial


class SeededTPESampler(optuna.samplers.BaseSampler):
    """TPE whose draws depend on the seed, the trial's number and the trials before it, and on no process.

    Several processes with one seed therefore propose different things, and a search that goes on proposes what it would
    have proposed. TPE: Bergstra et al. 2011, NeurIPS 24; for two objectives Ozaki et al. 2022, JAIR 73.
    """

    def __init__(self, seed: int, startup_trials: int):
        self._seed = seed
        self._startup_trials = startup_trials
        self._tpe: optuna.samplers.TPESampler | None = None

    def before_trial(self, study, trial) -> None:
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        self._tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup_trials)

    def infer_relative_search_space(self, study, trial) -> dict:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space) -> dict:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


def open_study(
    name: str, storage: str | None, folder: Path, objectives: Sequence[Objective], *, asked: dict, sampler, pruner
) -> optuna.Study:
    """The study of this name, made where there is none.

    Args:
        asked: what a study cannot change, as plain values: the space, what all trials share.

    Raises:
        ValueError: the storage cannot be reached, or the study was begun with other objectives or something else `asked`.
    """
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=_journal(folder) if storage is None else _database(storage),
        sampler=sampler,
        pruner=pruner,
        directions=[objective.direction for objective in objectives],
        load_if_exists=True,
    )
    asked = {"objectives": [objective.key for objective in objectives], **asked}
    if ASKED not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(ASKED, asked)  # in one go: another process may be here at the same time
    begun = study.user_attrs.get(ASKED, {})
    differences = [
        f"{key} {_difference(begun.get(key), value)}" for key, value in asked.items() if begun.get(key) != value
    ]
    if differences:
        raise ValueError(
            f"name={name}: this study was begun with other settings: {'; '.join(differences)}. name=OTHER begins a new one"
        )
    return study


def effective_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that the search consists of, by number.

    Not among them: one that runs again as a later trial, a second one that does so, one that was begun after others had
    taken the last place, and one that was killed before it had a point.
    """
    by_number = sorted(trials, key=lambda trial: trial.number)
    first: dict[int, int] = {}  # failed trial -> the trial that does it again
    for trial in by_number:
        if (number := trial.user_attrs.get(AGAIN)) is not None:
            first.setdefault(number, trial.number)
    return [
        trial
        for trial in by_number
        if trial.number not in first
        and first.get(trial.user_attrs.get(AGAIN), trial.number) == trial.number
        and not trial.user_attrs.get(WITHDRAWN)
        and (trial.params or trial.state != TrialState.FAIL)
    ]


def place_of(number: int, trials: Sequence[FrozenTrial]) -> int | None:
    """Which of the counted trials it is, from 1; None where it is none."""
    numbers = [trial.number for trial in effective_trials(trials)]
    return numbers.index(number) + 1 if number in numbers else None


def fail_stale_trials(study: optuna.Study, take_over: Sequence[int]) -> list[FrozenTrial]:
    """Marks as failed the trials whose process is gone, or that are to be taken over; returns those nobody knows of."""
    unknown = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        gone = trial.number in take_over or processes.is_gone(trial.user_attrs.get(PROCESS, {}))
        if gone:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        elif gone is None:
            unknown.append(trial)
    return unknown


def enqueue_failed(study: optuna.Study) -> list[int]:
    """Proposes the points of failed trials again, once each; returns the numbers of those trials."""
    failed = [trial for trial in effective_trials(study.get_trials(deepcopy=False)) if trial.state == TrialState.FAIL]
    for trial in failed:
        study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    return [trial.number for trial in failed]


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best one first, or with two objectives the front from the best by the first to the best by the second.

    Of trials that are the same run, the first counts.
    """
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda t: t.number):
        found.setdefault(trial.user_attrs[FOLDER], trial)
    signs = [1 if direction.name == "MAXIMIZE" else -1 for direction in study.directions]

    def merit(trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(signs, trial.values, strict=True)]

    front, best = [], -np.inf
    for trial in sorted(found.values(), key=lambda t: ([-each for each in merit(t)], t.number)):
        if merit(trial)[-1] > best:
            front.append(trial)
            best = merit(trial)[-1]
    return front[:1] if len(signs) == 1 else front


def first_line(error: Exception) -> str:
    """What a driver says of a database, without the statement that it was asked."""
    if error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


def _journal(folder: Path) -> optuna.storages.BaseStorage:
    path = folder / JOURNAL
    try:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    except ValueError as error:  # JSON that is cut off
        raise ValueError(
            f"{path}: not a whole journal ({error}); take it away: trials that are finished are found by their records"
        ) from error


def _database(url: str) -> optuna.storages.BaseStorage:
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise ValueError(
            f"storage={url}: not a URL of a database; use null, or postgresql+psycopg://USER@HOST/DATABASE"
        ) from error
    shown = parsed.render_as_string(hide_password=True)
    options = {"pool_pre_ping": True}  # a trial takes longer than some servers keep a connection
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": 10}
    try:
        return optuna.storages.RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=options)
    except ImportError as error:
        raise ValueError(
            f'storage={shown}: no driver for it is installed; pip install -e ".[postgresql]" and a URL that begins with '
            "postgresql+psycopg://"
        ) from error
    except SQLAlchemyError as error:
        raise ValueError(f"storage={shown}: cannot be reached: {first_line(error)}") from error


def _difference(before, now) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return join_words([f"{key}={now.get(key, 'absent')} for {before.get(key, 'absent')}" for key in keys], 20)
    return f"{_plain(now)} for {_plain(before)}"


def _plain(value) -> str:
    return " ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)
