"""The data of a search's pages: search.json, with the trials and the importance of the settings."""

import math
import warnings

import optuna
from optuna.trial import TrialState

from common.search_record import SearchRecord, SearchTrial
from common.text import plural
from engine.search.settings import SearchSettings
from engine.search.space import as_overrides, run_name
from engine.search.study import effective_trials

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FEWEST_TRIALS = 4  # finished ones, to compute importances


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
