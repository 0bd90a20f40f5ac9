"""The race: successive halving of candidates with Optuna; each candidate is an ordinary run of train.py."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from common.errors import UserError
from common.locks import locked
from common.run_folder import RunFolder
from engine.search.objectives import Objective
from engine.search.search import RunFailed, Search
from engine.search.settings import SearchSettings
from engine.search.space import run_name, suggest_point
from engine.search.study import LOST_RUNS, WholePointSampler, effective_trials, open_study
from engine.smallest.plan import RESERVE_S, TrainingTimes
from engine.smallest.runs import STAGES, RunKey, Runs
from engine.smallest.selection import cost_of, utility

log = logging.getLogger(__name__)

LOCKING_S = 2.0  # at most, between a trial's entry in the study and its lock
PLACE = "place"  # a trial's parameter: index into the list of candidates that race


class InOrder(WholePointSampler):
    """Propose each place once, in order."""

    def sample_relative(self, study, trial, search_space) -> dict:
        tried = effective_trials(study, self._space)
        places = range(self._space[PLACE].high + 1)
        free = (place for place in places if run_name(self._space, {PLACE: place}) not in tried)
        return {PLACE: next(free, 0)}


class Halving(optuna.pruners.BasePruner):
    """Stop a trial that is not among the most useful at a rung.

    This is asynchronous successive halving (Li et al. 2020, MLSys 2:230-246). Optuna's SuccessiveHalvingPruner keeps a trial's
    value from the moment it reached the rung. Here a more accurate later trial raises the value that is good enough, so all
    trials are compared again at each decision. The first place, the reference in the first race, is never stopped and does not
    count among those that continue.

    Args:
        utility: takes a place, its value after an epoch, and the best value after that epoch.
        known: values of earlier runs, by place and epoch. Runs of an earlier race have places below 0 and do not count among
            those that continue either.
        min_epochs: the first rung; each further rung is `reduction_factor` times as many epochs.
        reduction_factor: one of this many trials continues.
    """

    def __init__(
        self, utility: Callable[[int, float, float], float], known: Mapping[int, Mapping[int, float]], min_epochs: int,
        reduction_factor: int,
    ):  # fmt: skip
        self._utility, self._known = utility, known
        self._min_epochs, self._factor = min_epochs, reduction_factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        epoch, place = trial.last_step, trial.params[PLACE]
        # Nothing was reported where heartbeats had stopped before the first epoch, as those of a computer that slept
        if epoch is None or place == 0 or not self._is_rung(trial):
            return False
        values = self._values(study, epoch)
        best = max(values.values())
        worth = {each: self._utility(each, value, best) for each, value in values.items() if each > 0}
        last = sorted(worth.values(), reverse=True)[max(1, len(worth) // self._factor) - 1]
        return worth[place] < last

    def best(self, study: optuna.Study, epoch: int) -> float:
        """Return the best value of any run after an epoch; -inf where no run has reached it."""
        return max(self._values(study, epoch).values(), default=-math.inf)

    def _values(self, study: optuna.Study, epoch: int) -> dict[int, float]:
        """Return the values after an epoch, by place; of a resumed run, which has several trials, the latest."""
        found = {place: values[epoch] for place, values in self._known.items() if epoch in values}
        for trial in study.get_trials(deepcopy=False):
            value = trial.intermediate_values.get(epoch, math.nan)
            if not math.isnan(value):
                found[trial.params[PLACE]] = value
        return found

    def _is_rung(self, trial: FrozenTrial) -> bool:
        """Return whether a rung was reached since the previous validation, which may be several epochs ago."""
        before = max((epoch for epoch in trial.intermediate_values if epoch < trial.last_step), default=0)
        rung = self._min_epochs
        while rung <= before:
            rung *= self._factor
        return rung <= trial.last_step


class Race(Search):
    """Train candidates, and stop those that fall behind at a rung (`Halving`).

    They are compared by `selection.utility`: accuracy below what is good enough counts against a candidate, and accuracy above
    it does not help.

    Args:
        places: candidates in the order in which they start; the first is never pruned.
        title: name of the race in log lines.
        trained: candidates of an earlier race, whose accuracies count as well.
    """

    stages = STAGES

    def __init__(
        self, runs: Runs, places: list[int], times: TrainingTimes, title: str = "race", trained: Sequence[int] = ()
    ):
        self.runs, self.places, self.times, self.title = runs, places, times, title
        settings = runs.settings
        self._halving = Halving(
            lambda place, value, best: self._utility(self.places[place], value, best),
            _known_values(runs, places, trained), settings.min_epochs, settings.reduction_factor,
        )  # fmt: skip
        # The budget is part of the name, since it decides which runs fit; "values", since earlier versions stored utilities
        digest = hashlib.blake2b(repr((places, runs.budget.minutes, "values")).encode(), digest_size=4).hexdigest()
        own = SearchSettings(
            name=f"race-{digest}", n_trials=len(places), objectives=[Objective(f"val.{settings.question.metric}")],
            base_overrides=[], space={PLACE: IntDistribution(0, len(places) - 1)},
            seeds=settings.question.seeds, good_enough=settings.question.good_enough, n_retrain=1, n_startup_trials=0, seed=0,
            pruning=None, storage=settings.storage,
        )  # fmt: skip
        super().__init__(own, settings.folder, runs.run)

    def _open_study(self) -> optuna.Study:
        return open_study(self.settings, self.folder, InOrder(self.settings.space), self._halving)

    def run_trials(self) -> bool:
        """Run the remaining trials, first those of killed processes; return whether no process runs a trial any more."""
        self._forget_lost_runs()
        if any(map(self._is_orphan, self._running())):
            time.sleep(LOCKING_S)
            for trial in filter(self._is_orphan, self._running()):
                self._give_up(trial.number)
        return super().run_trials() and all(map(self._is_free, range(len(self.places))))

    def _forget_lost_runs(self) -> None:
        """Let trials start again that have ended, but whose runs were deleted, damaged or reopened since."""
        ended = (trial for trial in self._trials().values() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED))
        lost = [each.number for each in ended if self.runs.record(self._key(each)) is None]
        if lost:
            self.study.set_user_attr(LOST_RUNS, sorted({*self.study.user_attrs.get(LOST_RUNS, []), *lost}))

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Return whether a trial counts as running although no process runs it."""
        return self._is_free(trial.params[PLACE])

    def _is_free(self, place: int) -> bool:
        with locked(self._lock(place)) as is_free:
            return is_free

    def _lock(self, place: int) -> Path:
        """Return the lock that a process holds from the start of a trial; it locks the run's folder only seconds later."""
        return self.folder / f".{self.settings.name}-{place}.lock"

    def _key(self, trial: FrozenTrial | optuna.Trial) -> RunKey:
        return self.runs.first(self.places[trial.params[PLACE]])

    def _job(self, point: dict) -> tuple[list[str], RunFolder]:
        key = self.runs.first(self.places[point[PLACE]])
        return self.runs.overrides(key), self.runs.folder(key)

    def _evaluate(self, trial: optuna.Trial) -> list[float]:
        place = suggest_point(self.settings.space, trial)[PLACE]
        # Waits a second, since another process may be testing the lock at this moment
        with locked(self._lock(place), timeout_s=1.0) as is_free, self.runs.progress.quiet():
            if not is_free:
                raise RunFailed  # two processes have proposed the same place
            return super()._evaluate(trial)

    def _callbacks(self, trial: optuna.Trial) -> list:
        from callbacks.optuna_pruning import RacePruning  # late: it imports Lightning

        place = trial.params[PLACE]
        key = self._key(trial)
        self.runs.progress.begin(f"{self.title}: {place + 1} of {len(self.places)}, {self.runs.describe(key)}")
        pruning = RacePruning(trial=trial, monitor=self.runs.settings.monitor, best=self._halving.best)
        return [pruning, *self.runs.callbacks()]

    def _utility(self, candidate: int, value: float, best: float) -> float:
        question, (own, top) = self.runs.settings.question, (candidate, self.places[0])
        costs = [cost_of(self.runs.candidates[each], question.cost[0]) for each in (own, top)]
        return utility(value, best, question.good_enough, question.target, costs[0] / costs[1])

    def _is_trial_left(self) -> bool:
        """Return whether a trial can start and is likely to end within the budget."""
        if not super()._is_trial_left():
            return False
        left_s, started = self.runs.budget.left_s(), {trial.params[PLACE] for trial in self._trials().values()}
        waiting = [place for place in range(len(self.places)) if place not in started]
        if left_s is None or not waiting or waiting[0] == 0:
            return True
        return self.times.of(self.runs.candidates[self.places[waiting[0]]]) <= left_s - RESERVE_S

    def _after_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if self._outcome and PLACE in trial.params:
            key = self._key(trial)
            self.times.learn(self.runs.candidates[key.candidate], self.runs.folder(key))
            log.info("%s: %s", self.runs.describe(key), self._outcome)
        if not self._is_trial_left():
            self.study.stop()


def _known_values(runs: Runs, places: Sequence[int], trained: Sequence[int]) -> dict[int, dict[int, float]]:
    """Return the values of finished and pruned runs by place (below 0 for an earlier race) and epoch."""
    known = {}
    for place, candidate in [*enumerate(places), *enumerate(trained, -len(trained))]:
        key = runs.first(candidate)
        if runs.record(key) is None:
            continue
        try:
            rows = runs.folder(key).read_metrics()
        except UserError as error:
            log.warning("%s: the race ignores its accuracies: %s", runs.describe(key), error)
            continue
        values = {epoch: row.get(runs.settings.monitor, math.nan) for epoch, row in rows.items()}
        known[place] = {epoch: value for epoch, value in values.items() if not math.isnan(value)}
    return known
