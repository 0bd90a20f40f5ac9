import math

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import engine.cli  # noqa: F401 registers the resolvers
from engine.search.space import as_overrides, check_space, override_text, points_of, read_base, read_space, size_of
from tests.support.helpers import PROJECT


@pytest.mark.parametrize(
    ("dimension", "distribution", "size"),
    [
        (["adam", "sgd"], CategoricalDistribution(["adam", "sgd"]), 2),
        ([None, True, 16, 0.5, [64, 2]], CategoricalDistribution(["null", "true", "16", "0.5", "[64,2]"]), 5),
        ({"low": 1e-4, "high": 1e-1, "log": True}, FloatDistribution(1e-4, 1e-1, log=True), None),
        ({"low": 3, "high": 6}, IntDistribution(3, 6), 4),
        ({"low": 8, "high": 64, "log": True}, IntDistribution(8, 64, log=True), 57),
        ({"low": 8, "high": 30, "step": 8}, IntDistribution(8, 24, step=8), 3),
        ({"low": 0.0, "high": 1.0}, FloatDistribution(0.0, 1.0), None),
        ({"low": 0.1, "high": 0.75, "step": 0.1}, FloatDistribution(0.1, 0.7, step=0.1), 7),
        ({"low": 0, "high": 1, "step": 0.5}, FloatDistribution(0, 1, step=0.5), 3),
        ({"low": 5, "high": 5}, IntDistribution(5, 5), 1),
    ],
)
def test_dimensions_as_optuna_has_them(dimension, distribution, size):
    space = read_space({"a.b": dimension})
    assert space["a.b"].distribution == distribution
    assert size_of(space) == size
    assert [point["a.b"] for point in points_of(space)] == ([] if size is None else space["a.b"].values)
    assert all(distribution._contains(distribution.to_internal_repr(p["a.b"])) for p in points_of(space))
    assert len({str(point) for point in points_of(space)}) == (size or 0)


def test_points_of_two_keys():
    space = read_space({"a": ["x", "y"], "b": {"low": 0.1, "high": 0.3, "step": 0.1}})
    assert [tuple(p.values()) for p in points_of(space)] == [
        ("x", 0.1),
        ("x", 0.2),
        ("x", 0.3),
        ("y", 0.1),
        ("y", 0.2),
        ("y", 0.3),
    ]


def test_keys_are_dotted_or_nested_and_null_takes_one_out():
    assert list(read_space({"optimizer": ["adam"], "optimizer.lr": {"low": 0.1, "high": 1.0}})) == [
        "optimizer",
        "optimizer.lr",
    ]
    assert list(read_space({"model": {"keep": [1, 2], "head": {"dropout": [[0.1]]}}, "seed": None})) == [
        "model.keep",
        "model.head.dropout",
    ]


def test_numbers_are_drawn_with_four_digits_and_within_the_range():
    space = read_space({"lr": {"low": 1e-4, "high": 0.0333333, "log": True}, "n": {"low": 10_000, "high": 99_999}})
    assert as_overrides(space, {"lr": 0.00031622776601683794, "n": 12_345}) == ["lr=0.0003162", "n=12345"]
    assert as_overrides(space, {"lr": 0.0333333, "n": 10_000})[0] == "lr=0.03333"
    assert as_overrides(read_space({"x": {"low": 1.0, "high": 1.23456}}), {"x": 1.23456}) == ["x=1.23456"]  # not 1.235
    assert as_overrides(read_space({"x": {"low": 1000.25, "high": 1002.25, "step": 0.25}}), {"x": 1000.75}) == [
        "x=1000.75"
    ]


@pytest.mark.parametrize(
    "value",
    [None, True, False, 3, -2, 0.1, 1e-5, 1 / 3, 2.0, "adam", "null", "1e-3", "a b", "x=1,2", 'say "no"', "", "ä", "a/b.pth",
     [1, [2, "a b"]], {"a": [1], "b": "c,d"}, "back\\slash", "[1]"],
)  # fmt: skip
def test_texts_are_read_back_by_hydra(value):
    read = OverridesParser.create().parse_override(f"key={override_text(value)}").value()
    assert read == value and type(read) is type(value)


def test_base_is_written_as_typed_or_as_a_list():
    typed = "datamodule=image_folder 'datamodule.root=\"my images\"'"
    assert read_base(typed) == ["datamodule=image_folder", 'datamodule.root="my images"']
    assert read_base(["a=1"]) == ["a=1"] and read_base("") == []
    with pytest.raises(ValueError, match=r"base=.*No closing quotation"):
        read_base("a='1")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "nothing to search"),
        ({"a": None}, "nothing to search"),
        ({"a": {"low": 2, "high": 1}}, r"a=\{low:2,high:1\}: low is above high"),
        ({"a": {"low": 0.0, "high": 1.0, "log": True}}, "with log, low has to be above 0"),
        ({"a": {"low": 1}}, "needs low and high"),
        ({"a": {"low": "x", "high": 1}}, "are numbers"),
        ({"a": {"low": 0.0, "high": math.inf}}, "are numbers"),
        ({"a": {"low": 1, "high": 2, "log": "yes"}}, "log is true or false"),
        ({"a": {"low": 1, "high": 9, "step": 0}}, "step has to be above 0"),
        ({"a": {"low": 1, "high": 9, "step": 1, "log": True}}, "log and step"),
        ({"a": []}, "neither a list of choices nor a range"),
        ({"a": 5}, "neither a list of choices nor a range"),
        ({"a": [1, 1]}, "stands there twice"),
    ],
)
def test_what_is_no_space(space, words):
    with pytest.raises(ValueError, match=words):
        read_space(space)


@pytest.fixture
def check():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        yield lambda space, *base: check_space(read_space(space), list(base))


def test_groups_and_keys_of_train_are_a_space(check):
    check({"optimizer": ["sgd", "adam"], "optimizer.lr": {"low": 0.1, "high": 1.0}, "model.keep": [3, 4]}, "seed=3")
    check({"model": ["resnet18", "simple_cnn"], "scheduler": ["none", "plateau"]}, "experiment=final_model")


@pytest.mark.parametrize(
    ("space", "base", "words"),
    [
        ({"optimizer.lrr": [1]}, [], "space: optimizer.lrr: no such key.*did you mean lr"),
        ({"optimizer": ["adam", "adm"]}, [], "space: optimizer=adm: no such choice; did you mean adam"),
        ({"optimizer": ["adam"]}, [], "space: optimizer: no such.*did you mean optimizer"),
        ({"optimizer": ["sgd_momentum", "adam"], "optimizer.momentum": [0.8, 0.9]}, [], "space: optimizer.momentum: no such"),
        ({"model.keep": [3]}, ["model=rsnet18"], "base: model=rsnet18: no such choice; did you mean resnet18"),
        ({"model.keep": [3]}, ["model.keep=3"], "model.keep stands in base and in space"),
        ({"seed": [1, 2]}, [], "space: seed is for the search itself"),
        ({"model.keep": [3]}, ["stages=[fit]"], "base: stages is for the search itself"),
        ({"model.keep": [3]}, ["ckpt_path=x"], "base: ckpt_path is for the search itself"),
        ({"model.keep": [3]}, ["hydra.run.dir=x"], "base: hydra.run.dir is for the search itself"),
        ({"model.keep": [3]}, ["experiment=optimizers"], "base: .*sweeps optimizer, optimizer.lr itself"),
        ({"model.keep": [3]}, ["datamodule.select_on=test"], "would search on the test images"),
        ({"model.keep": [3]}, ["trainer=ddp"], "start search.py several times"),
        ({"model.keep": [3]}, ["datamodule.batch_size=8,16"], "base: "),
    ],
)  # fmt: skip
def test_what_train_does_not_have_is_said_before_anything_runs(check, space, base, words):
    with pytest.raises(ValueError, match=words):
        check(space, *base)
