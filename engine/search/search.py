"""A search: the study proposes, each trial is a run, and at the end the best is trained again."""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from common.atomic_io import read_csv
from common.errors import TrialPruned
from common.run_record import RunRecord
from common.text import duration, join_words, plural
from engine import cli
from engine.error_messages import user_message
from engine.search import processes, retrain
from engine.search.settings import SearchSettings, read_settings
from engine.search.space import as_overrides, points_of
from engine.search.study import (
    AGAIN,
    FOLDER,
    LOST,
    PROCESS,
    TRIED,
    WITHDRAWN,
    SeededTPESampler,
    effective_trials,
    enqueue_failed,
    fail_stale_trials,
    first_line,
    open_study,
    place_of,
)
from engine.search.trial import completed_record, run_trial, wait_for_lock

log = logging.getLogger(__name__)

MOST_TRIES = 10
STAGES = "stages=[cost,fit]"  # the test split stays closed


def run_search(config: DictConfig, folder: Path, run: Callable) -> None:
    """Runs the trials that are left, then trains the best again, unless other processes are still at trials.

    Trials that end in an error are kept for the exit status.

    Args:
        run: train.py's, which takes a configuration, a record and further callbacks.

    Raises:
        ValueError: bad settings, or a storage that cannot be reached.
    """
    settings = read_settings(config)
    try:
        _search(settings, folder, run)
    except LOST as error:
        raise ValueError(f"storage: the connection was lost ({first_line(error)}); the same command goes on") from error


def _search(settings: SearchSettings, folder: Path, run: Callable) -> None:
    searching = Search(settings, folder, run)
    searching.trials()
    is_over = searching.is_over()
    if is_over:
        searching.failed += retrain.retrain(settings, searching.study, folder, run)
    retrain.report_search(settings, searching.study, folder, is_over=is_over)
    for place, error in searching.failed:
        if completed_record(place) is None:  # no other process has mended it
            cli.FAILED.append(cli.FailedJob(place.name, error, alone=False))


class Search:
    """This process's part of a search."""

    def __init__(self, settings: SearchSettings, folder: Path, run: Callable):
        self.settings, self.folder, self._run = settings, folder, run
        pruning = settings.pruning
        self.study = open_study(
            settings.name,
            settings.storage,
            folder,
            settings.objectives,
            asked=settings.asked,
            sampler=SeededTPESampler(settings.seed, settings.startup_trials),
            pruner=optuna.pruners.MedianPruner(pruning["startup_trials"], pruning["warmup_epochs"])
            if settings.monitor
            else optuna.pruners.NopPruner(),
        )
        self.failed: list[tuple[Path, Exception]] = []
        self._points = points_of(settings.space)  # none where there are too many
        self._total = min(settings.trials, len(self._points) or settings.trials)
        self._started = time.monotonic()
        self._ended_before = 0

    def trials(self) -> None:
        """Until as many as wanted have begun, here or elsewhere."""
        self._take_up()
        while (begun := self._next()) is not None:
            trial, place = begun
            point = as_overrides(self.settings.space, trial.params)
            folder = self.folder / "trials" / self._name(trial.params)
            trial.set_user_attr(FOLDER, folder.name)
            log.info("\nTrial %d of %d: %s", place, self._total, " ".join(point))
            try:
                said = self._one(trial, folder, point)
            except BaseException:  # a signal: it goes on where the same command is given next, on whatever machine
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                raise
            log.info("Trial %d of %d: %s", place, self._total, "; ".join([said, *self._so_far()]))
        if self._total < self.settings.trials:
            log.info("The space has %s, so there are no more trials", plural(len(self._points), "point"))

    def is_over(self) -> bool:
        """Whether no trial is left to others; says whose they are."""
        running = [trial for trial in effective_trials(self._all()) if trial.state == TrialState.RUNNING]
        if running:
            hosts = sorted({str(trial.user_attrs.get(PROCESS, {}).get("host")) for trial in running})
            log.info(
                "\n%s still in other processes, on %s; the one that ends last trains the best again",
                "1 trial is" if len(running) == 1 else f"{len(running)} trials are",
                join_words(hosts),
            )
        return not running

    def _take_up(self) -> None:
        """Goes on with what ended before its end."""
        unknown = fail_stale_trials(self.study, self.settings.take_over)
        enqueue_failed(self.study)
        trials = effective_trials(self._all())
        self._ended_before = sum(trial.state.is_finished() for trial in trials)
        if trials:
            states = Counter(trial.state for trial in trials)
            log.info(
                "The study has %s: %d finished, %d pruned, %d running elsewhere, %d to go on with or to do again",
                plural(len(trials), "trial"), states[TrialState.COMPLETE], states[TrialState.PRUNED],
                states[TrialState.RUNNING], states[TrialState.WAITING],
            )  # fmt: skip
        if unknown:
            numbers = [trial.number for trial in unknown]
            hosts = sorted({str(trial.user_attrs.get(PROCESS, {}).get("host", "a host unknown")) for trial in unknown})
            log.warning(
                "of %s on %s it cannot be known here whether the process is still there; where it is gone: take_over=[%s]",
                plural(len(unknown), "running trial"), join_words(hosts), ",".join(map(str, numbers)),
            )  # fmt: skip

    def _next(self) -> tuple[optuna.Trial, int] | None:
        """A trial that has a place among those wanted, and that place. In a small space no point is tried twice."""
        distributions = {key: dimension.distribution for key, dimension in self.settings.space.items()}
        while True:
            trials = self._all()
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and len(effective_trials(trials)) >= self._total:
                return None
            trial = self.study.ask(distributions)
            trial.set_user_attr(PROCESS, processes.this_process())
            trials = self._all()
            place = place_of(trial.number, trials)
            in_time = place is not None and place <= self._total  # else another process was quicker
            if in_time and (AGAIN in trial.user_attrs or not self._is_tried(trial.params, trials)):
                return trial, place
            trial.set_user_attr(WITHDRAWN, True)
            self.study.tell(trial, state=TrialState.FAIL)
            if in_time:
                others = [point for point in self._points if not self._is_tried(point, trials)]
                if not others:
                    return None
                draw = np.random.default_rng([self.settings.seed, trial.number])
                self.study.enqueue_trial(others[draw.integers(len(others))])

    def _one(self, trial: optuna.Trial, folder: Path, point: list[str]) -> str:
        """Runs it and tells the study; returns what became of it in words."""
        run = functools.partial(self._run_or_prune, trial)
        for _ in range(MOST_TRIES):  # another process may be quicker to take hold of the folder, and be killed in it
            wait_for_lock(folder)
            ended = run_trial(folder, [*self.settings.base, *point, STAGES], run)
            error = None if isinstance(ended, TrialPruned) else ended
            record = completed_record(folder) if error is None else None
            if record or error:
                break
        else:
            error = ValueError(f"{folder / 'result.json'}: no whole record after the run")
        try:
            pruned = record is not None and record["status"] == "pruned"
            values = None if error or pruned else [each.of(record) for each in self.settings.objectives]
        except ValueError as found:
            error = found
        if error is not None:
            self.failed.append((folder, error))
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            return f"failed ({user_message(error) or repr(error)})"
        self._report(trial, folder)
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            return f"pruned, {record['reason']}"
        self.study.tell(trial, values, skip_if_finished=True)
        return f"finished, {', '.join(each.measured(record) for each in self.settings.objectives)}"

    def _run_or_prune(self, trial: optuna.Trial, config: DictConfig, record: RunRecord) -> None:
        """train.py's run; one that is behind the others or whose loss is no number ends as pruned."""
        from callbacks.optuna_pruning import OptunaPruning
        from callbacks.terminate_on_nan import DivergedError  # late: both need Lightning

        monitor = self.settings.monitor
        try:
            self._run(config, record, callbacks=[OptunaPruning(trial=trial, monitor=monitor)] if monitor else [])
        except ValueError as error:
            if isinstance(error, DivergedError):
                raise TrialPruned(str(error).partition(". ")[0]) from error  # without the advice
            raise

    def _report(self, trial: optuna.Trial, folder: Path) -> None:
        """What a run that was found done says of its epochs."""
        frozen = next(each for each in self._all() if each.number == trial.number)
        known = frozen.intermediate_values or frozen.state.is_finished()
        if self.settings.monitor and not known and (folder / "metrics.csv").is_file():
            for row in read_csv(folder / "metrics.csv"):
                trial.report(float(row[self.settings.monitor]), step=int(row["epoch"]))

    def _so_far(self) -> list[str]:
        """The best or the front, and the time that is left."""
        said = retrain.best_so_far(self.settings, self.study)
        ended = sum(trial.state.is_finished() for trial in effective_trials(self._all()))
        left = self._total - ended
        if left > 0:
            pace_s = (time.monotonic() - self._started) / max(ended - self._ended_before, 1)
            said.append(f"about {duration(pace_s * left)} left")
        return said

    def _is_tried(self, params: dict, trials: list[FrozenTrial]) -> bool:
        """Whether a point of a small space is done, or another process is at it."""
        name = self._name(params)
        return bool(self._points) and any(
            trial.state in TRIED and trial.user_attrs.get(FOLDER) == name for trial in trials
        )

    def _name(self, params: dict) -> str:
        return cli.job_dir_name(as_overrides(self.settings.space, params), [])

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)
