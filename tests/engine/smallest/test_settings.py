"""Settings of smallest.py: what is refused, and what of the command line goes to each run."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from common.errors import UserError
from engine import cli
from engine.smallest.settings import SmallestSettings, read_settings
from engine.smallest.smallest import run_smallest


@contextmanager
def configuration(*typed: str):
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        yield compose("smallest", ["name=test", *typed])


def read(*typed: str) -> SmallestSettings:
    with configuration(*typed) as config:
        return read_settings(config, Path("folder"), typed)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("limits.macs=" + "9" * 400, "limits.macs: its whole number has more than 64 bits"),
        ("budget.minutes=" + "9" * 400, "budget.minutes: its whole number has more than 64 bits"),
        ("good_enough=0", "good_enough=0: use a difference in accuracy above 0 and below 1"),
        ("good_enough=1", "good_enough=1: use a difference"),
        ("target_accuracy=1.0", "target_accuracy=1.0: use an accuracy above 0 and below 1"),
        ("target_accuracy=95", "target_accuracy=95: use an accuracy above 0 and below 1, e.g. 0.95"),
        ("deploy=onnx_int", "deploy=onnx_int: no such format; did you mean onnx_int8"),
        ("deploy=web", "deploy=web: the page computes with the same file as deploy=onnx"),
        ("metric=acuracy", "metric=acuracy: no such metric; did you mean accuracy"),
        ("cost=mac", "cost=mac: no such cost; did you mean macs"),
        ("cost=null", "cost=null: no such cost"),
        ("workers=null", "workers=null: use a whole number of 1 or more"),
        ("cost=[macs,macs]", "cost=[macs,macs]: give one, or two different ones"),
        ("cost=[]", "cost=[]: give one, or two"),
        ("budget.minutes=0.5", "budget.minutes=0.5: use a number above 0.5 (reserved for test images"),
        ("budget.minutes=-1", "budget.minutes=-1: use a number above 0.5"),
        ("budget.minutes=ten", "budget.minutes=ten: use a number"),
        ("budget=5", "budget=5: is a group of settings; use budget.minutes=VALUE"),
        ("race=null", "race=null: is a group of settings; use race.candidates=VALUE"),
        ("+budget.minute=5", "budget.minute: no such setting; did you mean minutes"),
        ("+finals.candidats=5", "finals.candidats: no such setting; did you mean candidates"),
        ("seeds=[]", "seeds=[]: give a list"),
        ("seeds=[1,1]", "seeds=[1, 1]: list each seed once"),
        ("seeds=3", "seeds=3: give a list of whole numbers from 0 to 4294967295, e.g. seeds=[1,2,3]"),
        ("storage=5", "storage=5: use the URL of a database, or null"),
        ("storage='postgresql://me:secret@host/db'", "storage: the password would be in every record"),
        ("limits=5", "limits=5: is a group of settings; use limits.macs=VALUE"),
        ("cost={macs: 1}", "cost={'macs': 1}: no such cost"),
        ("cost=[[macs]]", "cost=['macs']: no such cost"),
        ("race.candidates=0", "race.candidates=0: use a whole number of 1"),
        ("race.reduction_factor=1", "race.reduction_factor=1: use a whole number of 2"),
        ("finals.folds=1.5", "finals.folds=1.5: use a whole number of 2"),
        ("datamodule.folds=1", "datamodule.folds=1: use a whole number of 2 or more, or null"),
        ("datamodule.folds=a", "datamodule.folds=a: use a whole number of 2 or more, or null"),
        ("name=a/b", "name=a/b: use letters, digits"),
        ("model=resnet18", "model=resnet18: is set by smallest.py in each run; use candidates.backbones=[NAME]"),
        (
            "model.image_size=64",
            "model.image_size=64: is set by smallest.py in each run; use candidates.image_sizes=[64]",
        ),
        ("seed=5", "seed=5: is set by smallest.py in each run; use seeds=[1,2,3]"),
        ("stages=[fit]", "stages=[fit]: is set by smallest.py in each run; remove it"),
        ("experiment=truncation", "experiment=truncation: is set by smallest.py"),
        ("datamodule.select_on=test", "datamodule.select_on=test would search on the test images"),
        ("trainer.fast_dev_run=true", "makes debug runs"),
    ],
)
def test_what_is_refused(typed, message):
    with pytest.raises(UserError) as refused:
        read(typed)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("typed", ["worker=0", "budget.left_minutes=5", "budget.left_minutes=ten"])
def test_what_the_command_sets_for_its_workers_is_refused(typed):
    message = f"^{typed}: is set by smallest.py itself; remove it$"
    with configuration(typed) as config, pytest.raises(UserError, match=message):
        run_smallest(config, None, None)


def test_what_is_of_train_goes_to_each_run_and_the_rest_does_not():
    settings = read("datamodule.batch_size=8", "trainer.max_epochs=3", "cost=[latency_ms,file_kib]", "limits.macs=1e6")
    assert settings.overrides[:2] == ["datamodule.batch_size=8", "trainer.max_epochs=3"]
    assert {"recipe=fast", "logger=none"} <= set(settings.overrides)
    assert not any("limits" in each or "cost" in each or "name" in each for each in settings.overrides)
    assert settings.question.cost == ["latency_ms", "file_kib"]
    assert settings.question.limits == {"macs": 1e6}


def test_a_budget_that_is_removed_is_no_limit():
    assert read("~budget.minutes").question.budget_minutes is None


def test_a_recipe_of_the_user_and_a_metric_are_those_of_the_runs():
    settings = read("recipe=study", "metric=balanced_accuracy")
    assert "recipe=study" in settings.overrides and "recipe=fast" not in settings.overrides
    assert "callbacks.best_checkpoint.monitor=val/balanced_accuracy" in settings.overrides
    assert settings.monitor == "val/balanced_accuracy"


@pytest.mark.parametrize(
    ("typed", "weighted"),
    [
        (["metric=balanced_accuracy"], True),
        (["metric=balanced_accuracy", "loss=weighted_cross_entropy"], True),
        (["metric=balanced_accuracy", "loss=cross_entropy"], False),
        (["metric=balanced_accuracy", "loss=focal"], False),
        (["metric=balanced_accuracy", "loss.label_smoothing=0.1"], False),
        (["metric=balanced_accuracy", "datamodule.sampler=balanced"], False),
        ([], False),
    ],
)
def test_a_balanced_metric_weighs_the_classes_in_the_loss_unless_the_user_decides(typed, weighted):
    losses = [each for each in read(*typed).overrides if each.startswith("loss=")]
    assert losses.count("loss=weighted_cross_entropy") == weighted and len(losses) <= 1


def test_a_search_of_an_earlier_version_keeps_its_plain_loss(tmp_path):
    """Its plan has no `loss`; one that began with the weighted loss has it."""

    def losses(search: dict) -> list[str]:
        (tmp_path / "plan.json").write_text(json.dumps({"search": search}))
        with configuration("metric=balanced_accuracy") as config:
            overrides = read_settings(config, tmp_path, ["metric=balanced_accuracy"]).overrides
        return [each for each in overrides if each.startswith("loss")]

    assert losses({"metric": "balanced_accuracy", "recipe": "fast"}) == []
    assert losses({"metric": "balanced_accuracy", "loss": "weighted_cross_entropy"}) == ["loss=weighted_cross_entropy"]


def test_folds_that_are_typed_are_those_of_the_finals():
    settings = read("datamodule.folds=5")
    assert settings.folds == 5
    assert not any("folds" in each for each in settings.overrides)
