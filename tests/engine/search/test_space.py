import math

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import engine.cli  # noqa: F401 registers the resolvers
from common.errors import UserError
from engine.search.space import (
    OTHER_IMAGES,
    as_overrides,
    check_space,
    list_points,
    read_base_overrides,
    read_space,
    suggest_point,
)
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
        ({"low": 0.5, "high": 0.5}, FloatDistribution(0.5, 0.5), 1),
    ],
)
def test_dimensions_as_distributions(dimension, distribution, size):
    space = read_space({"a.b": dimension})
    assert space == {"a.b": distribution}
    points = [point["a.b"] for point in list_points(space)]
    assert len(points) == len(set(points)) == (size or 0)
    assert all(distribution._contains(distribution.to_internal_repr(point)) for point in points)
    if size and not isinstance(dimension, list):
        assert (points[0], points[-1]) == (distribution.low, distribution.high)


def test_points_of_two_keys():
    space = read_space({"a": ["x", "y"], "b": {"low": 0.1, "high": 0.3, "step": 0.1}})
    points = [tuple(point.values()) for point in list_points(space)]
    assert points == [("x", 0.1), ("x", 0.2), ("x", 0.3), ("y", 0.1), ("y", 0.2), ("y", 0.3)]


@pytest.mark.parametrize("step", [1e-3, 1e-12])
def test_a_large_space_is_not_listed(step):
    assert list_points(read_space({"x": {"low": 0.0, "high": 10.0, "step": step}})) == []
    assert list_points(read_space({"x": {"low": 1, "high": 10_000}, "y": [1, 2]})) == []


def test_keys_are_dotted_or_nested_and_null_removes_one():
    assert list(read_space({"optimizer": ["adam"], "optimizer.lr": {"low": 0.1, "high": 1.0}})) == [
        "optimizer",
        "optimizer.lr",
    ]
    assert list(read_space({"model": {"keep": [1, 2], "head": {"dropout": [[0.1]]}}, "seed": None})) == [
        "model.keep",
        "model.head.dropout",
    ]


def test_proposed_numbers_have_four_digits_and_stay_within_the_range():
    space = read_space({"lr": {"low": 1e-4, "high": 0.0333333, "log": True}, "n": {"low": 10_000, "high": 99_999}})
    assert as_overrides(space, {"lr": 0.00031622776601683794, "n": 12_345}) == ["lr=0.0003162", "n=12345"]
    assert as_overrides(space, {"lr": 0.0333333, "n": 10_000})[0] == "lr=0.03333"
    assert as_overrides(read_space({"x": {"low": 1.0, "high": 1.23456}}), {"x": 1.23456}) == ["x=1.23456"]  # not 1.235
    assert as_overrides(read_space({"x": {"low": 1.00004, "high": 2.0}}), {"x": 1.00004}) == ["x=1.00004"]  # not 1.0
    assert as_overrides(read_space({"x": {"low": 1000.25, "high": 1002.25, "step": 0.25}}), {"x": 1000.75}) == [
        "x=1000.75"
    ]


def test_optuna_is_asked_for_the_dimensions_of_the_space():
    space = read_space({
        "a": ["x", 2], "b": {"low": 1, "high": 9}, "c": {"low": 1, "high": 9, "step": 4},
        "d": {"low": 1, "high": 9, "log": True}, "e": {"low": 1, "high": 9.0}, "f": {"low": 1, "high": 9.0, "step": 4},
        "g": {"low": 1.0, "high": 9, "log": True},
    })  # fmt: skip
    trial = optuna.create_study().ask()
    point = suggest_point(space, trial)
    assert trial.distributions == space and trial.params == point
    assert [type(each) for each in point.values()] == [str, int, int, int, float, float, float]


def test_base_overrides_are_written_as_typed_or_as_a_list():
    typed = "datamodule=image_folder 'datamodule.root=\"my images\"'"
    assert read_base_overrides(typed) == ["datamodule=image_folder", 'datamodule.root="my images"']
    assert read_base_overrides(["a=1"]) == ["a=1"] and read_base_overrides("") == []
    with pytest.raises(UserError, match=r"base_overrides=.*No closing quotation"):
        read_base_overrides("a='1")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "nothing to search"),
        ({"a": None}, "nothing to search"),
        ({"a": {"low": 2, "high": 1}}, r"a=\{low:2,high:1\}: `low <= high` must hold"),
        ({"a": {"low": 0.0, "high": 1.0, "log": True}}, "`low > 0` must hold for `log=True`"),
        ({"a": {"low": 1}}, "a range with low and high"),
        (
            {"a.b": {"low": 1, "high": 9, "steps": 2}},
            r"space: a\.b=.*: steps: no such key of a range; did you mean step\?",
        ),
        ({"a": {"low": "x", "high": 1}}, "are numbers"),
        ({"a": {"low": 0.0, "high": math.inf}}, "are numbers"),
        ({"a": {"low": 1, "high": 2, "log": "yes"}}, "log is true or false"),
        ({"a": {"low": 1, "high": 9, "step": 0}}, "`step > 0` must hold"),
        ({"a": {"low": 1, "high": 9, "step": 2, "log": True}}, "when `log`"),
        ({"a": {"low": 1.0, "high": 9, "step": 1, "log": True}}, "`step` is not supported when `log`"),
        ({"a": []}, "neither a list of choices nor a range"),
        ({"a": 5}, "neither a list of choices nor a range"),
        ({"a": [1, 1]}, "listed twice"),
    ],
)
def test_bad_spaces(space, words):
    with pytest.raises(UserError, match=words):
        read_space(space)


@pytest.fixture
def check():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        yield lambda space, *base: check_space(read_space(space), list(base))


def test_what_changes_the_training_images_only_may_be_searched():
    for key in (
        "source.train",
        "source.train_images",
        "source.shuffle_buffer",
        "batch_size",
        "train_fraction",
        "on_leak",
    ):
        assert not OTHER_IMAGES.fullmatch(f"datamodule.{key}")


@pytest.mark.thorough
def test_groups_and_keys_of_train_are_a_space(check):
    check({"optimizer": ["sgd", "adam"], "optimizer.lr": {"low": 0.1, "high": 1.0}, "model.keep": [3, 4]}, "seed=3")
    check({"model": ["resnet18", "simple_cnn"], "scheduler": ["none", "plateau"]}, "experiment=final_model")


@pytest.mark.parametrize(
    ("space", "base", "words"),
    [
        ({"optimizer.lrr": [1]}, [], "space: optimizer.lrr: no such key.*did you mean lr"),
        ({"optimizer": ["adam", "adm"]}, [], "space: optimizer=adm: no such choice; did you mean adam"),
        ({"optimzer": ["adam"]}, [], "space: optimzer: no such.*did you mean optimizer"),
        ({"optimizer": [1, 2]}, [], "space: optimizer=1: no such choice; allowed: adagrad"),
        ({"optimizer": ["sgd_momentum", "adam"], "optimizer.momentum": [0.8, 0.9]}, [], "space: optimizer.momentum: no such"),
        ({"model.keep": [3]}, ["model=rsnet18"], "base_overrides: model=rsnet18: no such choice; did you mean resnet18"),
        ({"model.keep": [3]}, ["model.keep=3"], "model.keep is in base_overrides and in space"),
        ({"seed": [1, 2]}, [], "space: seed is set by the search itself"),
        ({"deploy": ["onnx", "torch_export"]}, [], "space: deploy changes no training; remove it"),
        ({"model.keep": [3]}, ["deploy=onxx"], "deploy=onxx: no such format; did you mean onnx"),
        ({"model.keep": [3]}, ["stages=[fit]"], "base_overrides: stages is set by the search itself"),
        ({"model.keep": [3]}, ["ckpt_path=x"], "base_overrides: ckpt_path is set by the search itself"),
        ({"model.keep": [3]}, ["hydra.run.dir=x"], "base_overrides: hydra.run.dir is set by the search itself"),
        ({"model.keep": [3]}, ["debug=fast"], "base_overrides: debug makes debug runs, which are never ranked; remove it"),
        ({"debug": ["fast"]}, [], "space: debug makes debug runs"),
        (
            {"datamodule.split_seed": [1, 2]}, [],
            "space: datamodule.split_seed changes the validation images, so the trials could not be compared",
        ),
        ({"datamodule": ["elpv", "elpv_paper"]}, [], "space: datamodule changes the validation images"),
        *[({f"datamodule.source.{key}": ["a", "b"]}, [], f"space: datamodule.source.{key} changes the validation images")
          for key in ("path", "subset", "revision", "image", "label", "val", "classes", "arguments.split")],
        ({"model.keep": [3]}, ["trainer.limit_val_batches=0.5"], "trainer.limit_val_batches=0.5 makes debug runs"),
        ({"trainer.overfit_batches": [1, 2]}, [], "space: trainer.overfit_batches=1 makes debug runs"),
        ({"model.keep": [3]}, ["experiment=optimizers"], "base_overrides: .*sweeps optimizer, optimizer.lr itself"),
        ({"model.keep": [3]}, ["experiment=elpv_paper"], "base_overrides: .*sweeps seed itself"),
        ({"model.keep": [3]}, ["seeds=3"], "base_overrides: seeds is set by the search itself"),
        ({"model.keep": [3]}, ["datamodule.select_on=test"], "would search on the test images"),
        ({"model.keep": [3]}, ["trainer=ddp"], "start search.py several times"),
        ({"model.keep": [3]}, ["datamodule.batch_size=8,16"], "base_overrides: "),
        ({"optimizer.lr": [0.1, "abc"]}, [], "optimizer.lr=abc: expected float"),
        ({"optimizer.lr": [0.1, 1]}, ["optimizer=adamw", "optimizer.weight_decay=-1"], "optimizer.weight_decay=-1"),
        ({"optimizer.weight_decay": {"low": -1.0, "high": 1.0}}, ["optimizer=adamw"], "optimizer.weight_decay=-1.0"),
        ({"model.keep": [3, 99]}, [], "model.keep=99: shufflenet_v2_x0_5 has"),
        ({"model.backbone": ["resnet18", "resnet81"]}, ["model=truncated"], "model.backbone=resnet81: .*resnet18"),
    ],
)  # fmt: skip
def test_what_train_does_not_have_is_refused_before_anything_runs(check, space, base, words):
    with pytest.raises(UserError, match=words):
        check(space, *base)
