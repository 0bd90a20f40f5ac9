"""The decision of a network inside a checkpoint or an exported file becomes a typed one or an error."""

from dataclasses import asdict

import pytest

from common.errors import UserError
from common.run_record import Decision
from common.untrusted.description import check_decision, check_schema

TWO, THREE = ["cat", "dog"], ["a", "b", "c"]
DECISION = Decision(
    temperature=1.5, target_accuracy=0.9, confidence=0.6, fitted_on=20, positive_class="dog", threshold_criterion="f1",
    threshold=0.4,
)  # fmt: skip


def test_plain_values_become_the_decision():
    assert check_decision(asdict(DECISION), TWO, "x.ckpt") == DECISION
    assert check_decision(None, TWO, "x.ckpt") is None
    more = {"temperature": 1, "target_accuracy": 1}
    assert check_decision(more, THREE, "x.ckpt") == Decision(temperature=1.0, target_accuracy=1.0)
    without = asdict(DECISION) | {"threshold": None}  # val had images of one class only
    assert check_decision(without, TWO, "x.ckpt").threshold is None


@pytest.mark.parametrize(("change", "classes", "words"), [
    ({"temperature": 0}, TWO, "its decision.temperature is 0"),
    ({"temperature": float("nan")}, TWO, "its decision.temperature is nan"),
    ({"temperature": "1"}, TWO, "its decision is .*Expected `float`, got `str` - at `.*temperature`"),
    ({"target_accuracy": 1.1}, TWO, "its decision.target_accuracy is 1.1 .a number from 0 to 1."),
    ({"confidence": -1}, TWO, "its decision.confidence"),
    ({"target_accuracy": 0}, TWO, "its decision.target_accuracy is 0"),
    ({"delta": 0}, TWO, "its decision.delta is 0"),
    ({"delta": 1.5}, TWO, "its decision.delta is 1.5 .a number from 0 to 1."),
    ({"design_effect": 0}, TWO, "its decision.design_effect is 0"),
    ({"threshold": 1e40}, TWO, "its decision.threshold is"),
    ({"threshold_criterion": "best"}, TWO, "its decision is .*threshold_criterion"),
    ({"threshold_criterion": None}, TWO, "its decision.threshold_criterion is None"),
    ({"positive_class": "fox"}, TWO, "its decision.positive_class is 'fox'"),
    ({"positive_class": None}, TWO, "its decision.positive_class is None"),
    ({}, THREE, "its decision.positive_class is 'dog'"),
    ({"positive_class": None}, THREE, "its decision.positive_class is None"),
])  # fmt: skip
def test_any_other_value_is_named(change, classes, words):
    with pytest.raises(UserError, match=f"^x.ckpt: {words}.* which no run writes"):
        check_decision(asdict(DECISION) | change, classes, "x.ckpt")


@pytest.mark.parametrize(("schema", "words"), [
    ({}, "written by version 0.1.0 and readable only there"),
    ({"schema": 1}, "has schema 1; this version reads schema 2"),
    ({"schema": 2.0}, "has schema 2.0"),
])  # fmt: skip
def test_a_checkpoint_of_another_version_is_named_by_it(schema, words):
    check_schema({"schema": 2}, "x.ckpt")
    with pytest.raises(UserError, match=f"^x.ckpt: {words}"):
        check_schema(schema, "x.ckpt")
