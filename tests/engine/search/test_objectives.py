import pytest

from engine.search.objectives import DIRECTIONS, Objective, parse_objectives
from evaluation.intervals import accuracy_entry

RECORD = {
    "val": {"accuracy": accuracy_entry(80, 100), "loss": 0.5, "auroc": float("nan")},
    "model": {"macs": 38_947_204, "latency": [{"batch_size": 16, "latency_p50_ms": 50.0},
                                              {"batch_size": 1, "latency_p50_ms": 5.5}]},
}  # fmt: skip


def test_numbers_of_a_record():
    keys = ("val.accuracy", "val.loss", "model.macs", "model.latency_p50_ms")
    assert [Objective(key).of(RECORD) for key in keys] == [0.8, 0.5, 38_947_204, 5.5]
    assert Objective("val.accuracy").measured(RECORD) == "val accuracy 0.8000 (80 of 100, 95% interval 0.711 to 0.867)"
    assert Objective("model.macs").measured(RECORD) == "MACs 38.9M"


@pytest.mark.parametrize("key", ["val.auroc", "val.f1", "model.parameters"])
def test_what_is_not_measured_is_named(key):
    with pytest.raises(ValueError, match=f"objectives: {key} is not a number"):
        Objective(key).of(RECORD)


def test_more_is_better_of_scores_alone():
    up = {key for key, direction in DIRECTIONS.items() if direction == "maximize"}
    assert up == {"val.accuracy", "val.balanced_accuracy", "val.f1", "val.auroc"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["val.acuracy"], "did you mean val.accuracy"),
        (["test.accuracy"], "test split stays closed"),
        ([], "one, or two"),
        (["val.loss", "val.loss"], "different"),
        (["val.loss", "val.accuracy", "model.macs"], "one, or two"),
    ],
)
def test_what_is_no_objective(keys, words):
    with pytest.raises(ValueError, match=words):
        parse_objectives(keys)
