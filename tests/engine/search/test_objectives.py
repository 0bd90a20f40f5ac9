import pytest

from common.errors import UserError
from common.run_record import Latency, ModelInfo, RunRecord, SplitMetrics
from engine.search.objectives import DIRECTIONS, Objective, parse_objectives
from evaluation.intervals import proportion

LATENCY = [Latency(batch_size=16, latency_p50_ms=50.0), Latency(batch_size=1, latency_p50_ms=5.5)]
RECORD = RunRecord(
    val=SplitMetrics(accuracy=proportion(80, 100), loss=0.5, auroc=float("nan")),
    model=ModelInfo(macs=38_947_204, latency=LATENCY),
)


def test_values_in_a_record():
    keys = ("val.accuracy", "val.loss", "model.macs", "model.latency_p50_ms")
    assert [Objective(key).value_in(RECORD) for key in keys] == [0.8, 0.5, 38_947_204, 5.5]
    assert Objective("val.accuracy").describe(RECORD) == "val accuracy 0.8000 (80 of 100, 95% interval 0.711 to 0.867)"
    assert Objective("model.macs").describe(RECORD) == "model macs 38.9M"


def test_a_disturbed_latency_is_shown_as_such():
    latency = [Latency(batch_size=1, latency_p50_ms=106.0, flag="other processes used 1.6 of 2 cores")]
    disturbed = RunRecord(model=ModelInfo(latency=latency))
    shown = Objective("model.latency_p50_ms").describe(disturbed)
    assert shown == "model latency_p50_ms 106.0000 (unreliable: other processes used 1.6 of 2 cores)"
    assert Objective("model.latency_p50_ms").describe(RECORD) == "model latency_p50_ms 5.5000"
    disturbed.model.parameters = 250
    assert Objective("model.parameters").describe(disturbed) == "model parameters 250.0000"


@pytest.mark.parametrize("key", ["val.auroc", "val.f1", "model.parameters", "model.latency_p50_ms"])
def test_a_metric_that_was_not_measured_is_named(key):
    other_sizes = ModelInfo(macs=1, latency=LATENCY[:1])
    for record in (RunRecord(val=RECORD.val, model=other_sizes), RunRecord()):
        with pytest.raises(UserError, match=f"objectives: {key} is not a number"):
            Objective(key).value_in(record)


def test_one_or_two_different_objectives_are_taken():
    for keys in (["val.f1"], ["model.macs", "val.loss"]):
        assert parse_objectives(keys) == [Objective(key) for key in keys]


def test_more_is_better_for_scores_only():
    up = {key for key, direction in DIRECTIONS.items() if direction == "maximize"}
    assert up == {"val.accuracy", "val.balanced_accuracy", "val.f1", "val.auroc"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["val.acuracy"], "did you mean val.accuracy"),
        (["test.accuracy"], "test images are not evaluated in a search"),
        ([], "one, or two"),
        (["val.loss", "val.loss"], "different"),
        (["val.loss", "val.accuracy", "model.macs"], "one, or two"),
    ],
)
def test_bad_objectives(keys, words):
    with pytest.raises(UserError, match=words):
        parse_objectives(keys)
