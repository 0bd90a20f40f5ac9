"""Search settings: Optuna proposes trials and keeps the study, each trial is a run, and the best are retrained."""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from common.errors import StopRequested, TrialPruned, UserError
from common.progress import Progress
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.signals import stop_immediately
from common.text import duration, plural
from engine.error_messages import user_message
from engine.run.job import write_configuration
from engine.search import study
from engine.search.retrain import describe_best, report_search, retrain
from engine.search.settings import SearchSettings, read_settings
from engine.search.space import as_overrides, list_points, run_name, suggest_point
from engine.search.trial import completed_record, log_to, run_trial
from engine.state import STATE, FailedJob

log = logging.getLogger(__name__)

POLL_S = 1.0


class RunFailed(Exception):  # noqa: N818 the error is its cause
    """Make Optuna mark a trial as failed and continue with the next one."""


class TakenOver(BaseException):
    """Leave Optuna's loop, which cannot report a trial that another process marked as failed; the argument is its number."""


def run_search(config: DictConfig, folder: Path, run: Callable) -> None:
    """Run the remaining trials, then retrain the best, unless other processes still run trials.

    Failed runs are kept in STATE, for the exit status.

    Args:
        run: train.py's function, which takes a configuration, a record and further callbacks.

    Raises:
        UserError: wrong settings, or the storage is not available.
    """
    settings = read_settings(config)
    with stop_immediately(), study.storage_errors():
        with Progress("opening the study", log):
            search = Search(settings, folder, run)
        with log_to(folder / "search.log"):  # not earlier: a refused command leaves no line there
            if STATE.data_source:
                log.info(STATE.data_source)
            write_configuration(RunFolder(folder), OmegaConf.to_yaml(config), HydraConfig.instance().cfg)
            is_over = search.run_trials()
            if is_over:
                search.failed += retrain(settings, search.study, folder, run)
            report_search(settings, search.study, folder, is_over=is_over)
    for run_folder, error in search.failed:
        if completed_record(run_folder) is None:  # otherwise another process has finished it
            STATE.failed.append(FailedJob(run_folder.path.name, error, in_sweep=True))


class Search:
    """Run trials in this process; the processes of a search share only its study and its folder."""

    stages = "stages=[cost,fit]"  # test images are not evaluated

    def __init__(self, settings: SearchSettings, folder: Path, run: Callable):
        self.settings, self.folder, self._run = settings, folder, run
        self.study = self._open_study()
        self.failed: list[tuple[RunFolder, Exception]] = []
        self._n_trials = min(settings.n_trials, len(list_points(settings.space)) or settings.n_trials)
        self._n_ended_before = 0
        self._started_s = time.monotonic()
        self._title, self._outcome = "", ""  # title and outcome of the latest trial

    def run_trials(self) -> bool:
        """Run trials until none is left; return whether the trials of other processes have ended, too."""
        trials = self._trials()
        states = Counter(trial.state for trial in trials.values())
        self._n_ended_before = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
        if trials:
            log.info(
                "The study has %s: %d finished, %d pruned, %d running, %d to retry",
                plural(len(trials), "trial"), states[TrialState.COMPLETE], states[TrialState.PRUNED],
                states[TrialState.RUNNING], states[TrialState.WAITING] + states[TrialState.FAIL],
            )  # fmt: skip
        for trial in trials.values():
            if trial.state == TrialState.FAIL:
                self._retry(trial.number)
        while True:
            if self._is_trial_left():
                self._optimize()
            n_running = self._wait_for_other_processes()
            if not self._is_trial_left():
                break
        if self._n_trials < self.settings.n_trials:
            log.info("The space has only %s, so there are no more trials", plural(self._n_trials, "point"))
        if n_running:
            log.info(
                "\n%s still running in another process; the process that finishes last retrains the best",
                "1 trial is" if n_running == 1 else f"{n_running} trials are",
            )
        return not n_running

    def _optimize(self) -> None:
        try:
            self.study.optimize(self._objective, catch=(RunFailed,), callbacks=[self._after_trial])
        except TakenOver as taken_over:
            log.warning(
                "%s: its heartbeats had stopped, so it was counted as failed; its result is used anyway", self._title
            )
            self._retry(taken_over.args[0])

    def _wait_for_other_processes(self) -> int:
        """Wait until no running trial can belong to a killed process; return the number of running trials."""
        running = self._running()
        deadline_s = time.monotonic() + study.GRACE_S + 2  # databases store whole seconds
        if running:
            log.info(
                "Waiting for other processes, for at most %d s unless one of their trials has to be retried",
                study.GRACE_S,
            )
        with Progress("waiting for other processes", log):
            while running and not self._is_trial_left() and time.monotonic() < deadline_s:
                time.sleep(POLL_S)
                optuna.storages.fail_stale_trials(self.study)
                running = self._running()
        return len(running)

    def _objective(self, trial: optuna.Trial) -> list[float]:
        """Evaluate a trial for Optuna.

        Raises:
            RunFailed: the run failed, another process runs this point, or another process has taken the last trial.
            optuna.TrialPruned: the run was pruned.
        """
        self._outcome = ""
        if not trial.params and len(self._trials()) >= self._n_trials:
            raise RunFailed
        try:
            return self._evaluate(trial)
        except StopRequested:  # Optuna would leave the trial in the state running
            self._give_up(trial.number)
            raise

    def _evaluate(self, trial: optuna.Trial) -> list[float]:
        overrides, folder = self._job(suggest_point(self.settings.space, trial))
        numbers = [each.number for each in self._trials().values()]
        position = numbers.index(trial.number) + 1 if trial.number in numbers else len(numbers)
        self._title = f"Trial {position} of {self._n_trials}"
        log.info("\n%s: %s", self._title, " ".join(overrides))
        run = functools.partial(self._run_or_prune, trial)
        error = run_trial(folder, [*self.settings.base_overrides, *overrides, self.stages], run)
        if self._frozen(trial.number).state.is_finished():
            raise TakenOver(trial.number)
        record, values = completed_record(folder), []
        if record is not None and record.status == "pruned":
            self._outcome = f"pruned, {record.reason}"
            raise optuna.TrialPruned(record.reason)
        try:
            if record is not None:
                values = [each.value_in(record) for each in self.settings.objectives]
                described = ", ".join(each.describe(record) for each in self.settings.objectives)
                self._outcome = f"finished, {described}"
        except UserError as not_measured:
            error = not_measured
        if error is not None:
            self._outcome = f"failed ({user_message(error) or repr(error)})"
            self.failed.append((folder, error))
        if not values:
            raise RunFailed from error
        return values

    def _run_or_prune(self, trial: optuna.Trial, config: DictConfig, record: RunRecord) -> None:
        """Run train.py's job; prune a trial that is behind the others or whose loss is NaN."""
        from callbacks.terminate_on_nan import DivergedError  # late: it imports Lightning

        try:
            self._run(config, record, callbacks=self._callbacks(trial))
        except DivergedError as error:
            raise TrialPruned(str(error).partition(". ")[0]) from error  # drops the advice

    def _open_study(self) -> optuna.Study:
        return study.open_study(self.settings, self.folder)

    def _job(self, point: dict) -> tuple[list[str], RunFolder]:
        """Return the arguments of train.py that are specific to a point, and the folder of its run."""
        space = self.settings.space
        return as_overrides(space, point), RunFolder(self.folder / "trials" / run_name(space, point))

    def _callbacks(self, trial: optuna.Trial) -> list:
        """Return the callbacks that decide about the trial after each epoch."""
        from callbacks.optuna_pruning import OptunaPruning  # late: it imports Lightning

        return [OptunaPruning(trial=trial, monitor=self.settings.monitor)] if self.settings.monitor else []

    def _after_trial(self, _, trial: FrozenTrial) -> None:
        """Log how a trial ended, and stop Optuna's loop if no trial is left."""
        if self._outcome:
            log.info("%s: %s", self._title, "; ".join([self._outcome, *self._progress()]))
        if not self._is_trial_left():
            self.study.stop()

    def _progress(self) -> list[str]:
        """Return parts of a line: the best or the front so far, and the remaining time."""
        parts = describe_best(self.settings, self.study)
        n_ended = sum(trial.state.is_finished() for trial in self._trials().values())
        if n_ended < self._n_trials:
            pace_s = (time.monotonic() - self._started_s) / max(n_ended - self._n_ended_before, 1)
            parts.append(f"about {duration(pace_s * (self._n_trials - n_ended))} left")
        return parts

    def _is_trial_left(self) -> bool:
        """Return whether a trial can be proposed or retried."""
        trials = self._trials()
        return len(trials) < self._n_trials or any(trial.state == TrialState.WAITING for trial in trials.values())

    def _running(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials().values() if trial.state == TrialState.RUNNING]

    def _trials(self) -> dict[str | int, FrozenTrial]:
        return study.effective_trials(self.study, self.settings.space)

    def _give_up(self, number: int) -> None:
        """End a trial that no process will finish, and queue it again."""
        self._retry(number)  # first: otherwise another process could find that no trial is left
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _retry(self, number: int) -> None:
        study.retry_trial(self.study, self._frozen(number))

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]
