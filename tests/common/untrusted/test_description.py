"""The description of a network inside a checkpoint or an exported file is checked; its decision becomes a typed one."""

from dataclasses import asdict

import pytest

from common.errors import UserError
from common.run_record import Decision
from common.untrusted.description import check_decision, check_description, check_network, check_schema

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


LONGEST = "n" * 1000
PREPROCESSING = {"image_size": 4096, "mean": [0.0, -1.0, 9.9e29], "std": [1e-9, 1, 1], "fit": "pad"}
PREPROCESSING |= {"value_range": (0.0, 0.0, True), "interpolation": "bicubic", "source": "x.ckpt"}


@pytest.mark.parametrize(("settings", "named"), [
    ({"keep": 5, "head": {"hidden_dims": [65_536, -65_536, 0.5], "name": LONGEST}, LONGEST: None, "pretrained": False}, None),
    ({f"s{number}": [1] * 32 for number in range(31)}, None),
    ({f"s{number}": 1 for number in range(32)}, "network.network"),
    ({"dropout": [1] * 33}, "network.dropout"),
    ({"width": 65_537}, "network.width"),
    ({"width": float("nan")}, "network.width"),
    ({"width": {"a": {"b": [1]}}}, "network.width"),
    ({"width": {"a": {"b": object()}}}, "network.width"),
    ({"head": {"": 1}}, "network.head"),
    ({"head": LONGEST + "n"}, "network.head"),
    ({"head": "\ud800"}, "network.head"),
    ({"network": 5}, "network"),
    ({5: 1}, "network.5"),
])  # fmt: skip
def test_settings_of_a_network_are_short_texts_and_small_numbers(settings, named):
    network = {"network": "truncated", **settings}
    if named is None:
        check_network(network, "x.ckpt")
    else:
        with pytest.raises(UserError, match=f"^x.ckpt: its {named} is "):
            check_network(network, "x.ckpt")
    with pytest.raises(UserError, match=r"^x\.ckpt: its network is "):
        check_network(list(network), "x.ckpt")


@pytest.mark.parametrize(("change", "words"), [
    ({}, None),
    ({"classes": ["a"]}, "its classes is"), ({"classes": ["a", ""]}, "its classes is"), ({"classes": "ab"}, "its classes is"),
    ({"classes": ["a", LONGEST + "n"]}, "its classes is"), ({"classes": ["a", "b", "a"]}, "its classes is .*no name twice"),
    ({"classes": list(map(str, range(100_001)))}, "has 100,001 classes; at most 100,000"),
    ({"image_size": 4097}, "its image_size is 4097"), ({"image_size": 0}, "its image_size is 0"),
    ({"mean": [0.0, 0.0, 1e30]}, "its mean is"), ({"mean": [0.0, 0.0]}, "its mean is"), ({"std": [0, 1, 1]}, "its std is"),
    ({"fit": "stretch"}, "its fit is"), ({"interpolation": "nearest"}, "its interpolation is"),
    ({"value_range": (1.0, 0.0, True)}, "its range is"), ({"value_range": (0.0, 1.0, 1)}, "its range is"),
])  # fmt: skip
def test_a_description_is_checked_to_its_limits(change, words):
    given = {"classes": ["a", LONGEST], **PREPROCESSING, **change}
    if words is None:
        check_description(**given)
        return
    with pytest.raises(UserError, match=f"^x.ckpt: {words}"):
        check_description(**given)


@pytest.mark.parametrize(("schema", "words"), [
    ({}, "written by version 0.1.0 and readable only there"),
    ({"schema": 1}, "has schema 1; this version reads schema 2"),
    ({"schema": 2.0}, "has schema 2.0"),
])  # fmt: skip
def test_a_checkpoint_of_another_version_is_named_by_it(schema, words):
    check_schema({"schema": 2}, "x.ckpt")
    with pytest.raises(UserError, match=f"^x.ckpt: {words}"):
        check_schema(schema, "x.ckpt")
