"""The study in Optuna: its storage, its proposals, and which of its trials count."""

import contextlib
import copy
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from common.errors import UserError
from common.text import join_words, override_value
from engine.search.settings import SearchSettings
from engine.search.space import Space, list_points, run_name
from engine.state import STATE

log = logging.getLogger(__name__)

DATABASE = "study.db"
HEARTBEAT_S, GRACE_S = 10, 30  # the trial of a killed process is retried GRACE_S after its last heartbeat
LOST = (SQLAlchemyError, StorageInternalError)
SETTINGS = "settings"  # user attribute of a study: the settings it was started with
LOST_RUNS = "lost runs"  # user attribute of a study: numbers of ended trials whose runs no longer exist
STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL)


class WholePointSampler(optuna.samplers.BaseSampler):
    """Propose all keys of a space together."""

    def __init__(self, space: Space):
        self._space = space

    def infer_relative_search_space(self, study, trial) -> dict:
        return self._space

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise NotImplementedError("every key of the space is sampled together")


class SeededTPESampler(WholePointSampler):
    """Propose points by TPE, with randomness that depends only on the seed, the trial's number and the earlier trials.

    Several processes with one seed therefore propose different points, and a resumed search proposes what it would have
    proposed. In a small space, no point is proposed twice. TPE: Bergstra et al. 2011, NeurIPS 24; for two objectives:
    Ozaki et al. 2022, JAIR 73.
    """

    def __init__(self, space: Space, *, seed: int, n_startup_trials: int):
        super().__init__(space)
        self._seed, self._n_startup_trials = seed, n_startup_trials
        self._points = {run_name(space, point): point for point in list_points(space)}  # empty for a large space

    def sample_relative(self, study, trial, search_space) -> dict:
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._n_startup_trials)
        point = tpe.sample_relative(study, trial, tpe.infer_relative_search_space(study, trial))
        for key, distribution in search_space.items():
            if key not in point:
                point[key] = tpe.sample_independent(study, trial, key, distribution)
        tried = effective_trials(study, self._space) if self._points else {}
        untried = [each for name, each in self._points.items() if name not in tried]
        if untried and run_name(self._space, point) in tried:
            return untried[np.random.default_rng(seed).integers(len(untried))]
        return point


def open_study(
    settings: SearchSettings,
    folder: Path,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """Open the study of this name, or create it.

    Args:
        folder: folder of the search, with the database unless `storage` names one.
        sampler: proposes points; None: TPE.
        pruner: ends trials early; None: as in the settings.

    Raises:
        UserError: the storage is not available, or the study has other objectives, another space or base_overrides.
    """
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and retries are experimental
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search logs failed trials itself
    study = optuna.create_study(
        study_name=settings.name,
        storage=_open_storage(settings.storage, folder),
        sampler=sampler
        or SeededTPESampler(settings.space, seed=settings.seed, n_startup_trials=settings.n_startup_trials),
        pruner=pruner
        or (optuna.pruners.MedianPruner(**settings.pruning) if settings.pruning else optuna.pruners.NopPruner()),
        directions=[objective.direction for objective in settings.objectives],
        load_if_exists=True,
    )
    current = {
        "objectives": override_value([objective.key for objective in settings.objectives]),
        "base_overrides": override_value(settings.base_overrides),
        **{f"space {key}": _describe(dimension) for key, dimension in settings.space.items()},
    }
    if SETTINGS not in study.user_attrs:
        study.set_user_attr(SETTINGS, current)
    first = study.user_attrs[SETTINGS]
    changed = [key for key in {**first, **current} if first.get(key) != current.get(key)]
    differences = [f"{key}={current.get(key, 'absent')} instead of {first.get(key, 'absent')}" for key in changed]
    if differences:
        other = " ".join(dict.fromkeys(["name=NAME", STATE.other_folder]))  # the new trials need a folder, too
        raise UserError(
            f"name={settings.name}: this study was started with different settings: {join_words(differences, 20)}. "
            f"For a new study, use another {other}"
        )
    return study


def effective_trials(study: optuna.Study, space: Space) -> dict[str | int, FrozenTrial]:
    """Return the trials that make up the search, in the order of their proposals.

    A retried trial replaces the failed one. In a small space, two processes may propose the same point at the same moment; of
    these trials, the one that got furthest (STATES) counts. Trials that ended before their whole point was proposed do not
    count, nor do those of LOST_RUNS.
    """
    small, lost = bool(list_points(space)), study.user_attrs.get(LOST_RUNS, [])
    found: dict[str | int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.params.keys() != space.keys() or trial.number in lost:
            continue
        first = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        place = run_name(space, trial.params) if small else trial.number if first is None else first
        if place not in found or STATES.index(trial.state) < STATES.index(found[place].state):
            found[place] = trial
    return found


def retry_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the point of a failed trial again."""
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    retry(study, copy.deepcopy(trial))  # Optuna's retry changes a list in the trial's attributes


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the best trial; with two objectives the front, from the best by the first to the best by the second.

    Of trials with equal values, only the first is included.
    """
    sign = 1 if study.directions[0] == StudyDirection.MINIMIZE else -1
    front: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number)):
        front.setdefault(tuple(trial.values), trial)
    return list(front.values())


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Name the storage in errors of its database, which Optuna hides behind an AssertionError when it ends a trial.

    Raises:
        UserError: the connection to the database is lost, or its disk is full.
    """
    try:
        yield
    except (AssertionError, *LOST) as error:
        lost = error.__context__ if isinstance(error, AssertionError) else error
        if not isinstance(lost, LOST):
            raise
        raise UserError(f"storage: the connection was lost ({first_line(lost)}); rerun the same command") from error


def first_line(error: Exception) -> str:
    """Return the message of a database driver, without the failed statement."""
    if error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


def database_url(url: str | None, folder: Path) -> URL:
    """Return `url`, or the URL of the database in the search's folder.

    Raises:
        UserError: `url` is not a URL of a database.
    """
    try:
        return make_url(url) if url is not None else URL.create("sqlite", database=str(folder / DATABASE))
    except SQLAlchemyError as error:
        message = f"storage={url}: not a URL of a database; use null, or postgresql+psycopg://USER@HOST/DATABASE"
        raise UserError(message) from error


def _open_storage(url: str | None, folder: Path, attempts: int = 10) -> optuna.storages.RDBStorage:
    """Open the database at `url`, or the one in the search's folder."""
    parsed = database_url(url, folder)
    shown, is_new = parsed.render_as_string(hide_password=True), url is None and not (folder / DATABASE).exists()
    timeouts = {"postgresql": {"connect_timeout": 10}, "sqlite": {"timeout": 60}}  # seconds; sqlite: for other writers
    try:
        return optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False),
            # A trial takes longer than some servers keep a connection; a connection to a file is closed after each use
            engine_kwargs={
                "pool_pre_ping": True,
                "connect_args": timeouts.get(parsed.get_backend_name(), {}),
                "poolclass": NullPool if url is None else None,
            },
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=retry_trial,
        )
    except ImportError as error:
        raise UserError(
            f'storage={shown}: no driver for it is installed; pip install -e ".[postgresql]" and a URL that begins '
            "with postgresql+psycopg://"
        ) from error
    except SQLAlchemyError as error:
        if attempts and (isinstance(error, IntegrityError) or "already exists" in str(error)):
            time.sleep(0.2)  # another process is creating the tables
            return _open_storage(url, folder, attempts - 1)
        if "disk is full" in str(error):
            if is_new:
                (folder / DATABASE).unlink(missing_ok=True)  # a refused command leaves nothing
            hint = "; free some space, or write elsewhere: hydra.run.dir=DIR"
        else:
            hint = "" if url else ". If it is damaged, delete it: finished trials are found by their records"
        raise UserError(f"storage={shown}: not available: {first_line(error)}{hint}") from error


def _describe(dimension: BaseDistribution) -> str:
    """Return `[adam,sgd]` or `{low:0.1,high:1.0}`."""
    if isinstance(dimension, CategoricalDistribution):
        return f"[{','.join(dimension.choices)}]"
    parts = {"low": dimension.low, "high": dimension.high, "log": dimension.log or None, "step": dimension.step}
    return override_value({key: value for key, value in parts.items() if value is not None})
