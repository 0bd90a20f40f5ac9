"""Which jobs of a sweep are composed before anything is written."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper

import train as train_script
from common import progress
from common.errors import UserError
from common.run_folder import PROJECT
from engine.sweep import composing


@pytest.fixture
def check(monkeypatch):
    """Check the jobs of this command line; return what each composed job was given."""
    composed, usual = [], ConfigLoaderImpl.load_sweep_config

    def recorded(self, config, overrides):
        composed.append(overrides)
        return usual(self, config, overrides)

    def run(*arguments, launcher="basic"):
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            config = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True)
            config.hydra.overrides.task = list(arguments)
            composing.check_jobs(config)
        return composed

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", recorded)
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", Sweeper.validate_batch_is_legal)
    return run


def test_each_combination_of_choices_and_each_value_is_composed_once(check):
    assert check("model=shufflenet_mod,resnet18", "optimizer=adam,sgd", "optimizer.lr=1,2", "seed=range(0,50)") == [
        ["model=shufflenet_mod", "optimizer=adam", "optimizer.lr=1", "seed=0"],
        ["model=shufflenet_mod", "optimizer=adam", "optimizer.lr=2", "seed=0"],
        ["model=shufflenet_mod", "optimizer=sgd", "optimizer.lr=1", "seed=0"],
        ["model=resnet18", "optimizer=adam", "optimizer.lr=1", "seed=0"],
        ["model=resnet18", "optimizer=sgd", "optimizer.lr=1", "seed=0"],
    ]
    Sweeper.validate_batch_is_legal(object(), [["model=nope"]])  # not composed once more


def test_a_choice_that_does_not_exist_is_an_error(check):
    with pytest.raises(HydraException, match="nope"):
        check("optimizer=adam,nope", "seed=1,2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainer=cpu,ddp", "trainer=ddp in a sweep: .*without -m"),
        pytest.param("debug=fast", "debug=fast in a sweep: .*without -m", marks=pytest.mark.thorough),
        ("optimizer.lr=1e-3,abc", "optimizer.lr=abc: expected float"),
        ("model=shufflenet_mod,resnet18 optimizer.lr=1e-3,-1", "optimizer.lr=-1"),
        pytest.param(
            "model.backbone=shufflenet_v2_x0_5,shufflenet",
            "model.backbone=shufflenet: .*shufflenet_v2_x0_5",
            marks=pytest.mark.thorough,
        ),
        ("datamodule.folds=5 datamodule.fold=0,7", "datamodule.fold=7: .*4"),
        pytest.param("loss=focal loss.gamma=2,-1", "loss.gamma=-1", marks=pytest.mark.thorough),
        pytest.param("datamodule.split_seed=1,-2", "datamodule.split_seed=-2: .*0", marks=pytest.mark.thorough),
        pytest.param("datamodule.batch_size=16,0", "datamodule.batch_size=0: .*1", marks=pytest.mark.thorough),
    ],
)
def test_jobs_that_no_sweep_can_have_are_refused_before_it_starts(check, overrides, message):
    with pytest.raises(UserError, match=message):
        check(*overrides.split(), "seed=1,2")


@pytest.mark.parametrize(("values", "warns"), [("0.1,0.2", True), ("null,0.1", False)])
def test_a_sweep_of_debug_runs_only_is_warned_of_before_it_starts(check, caplog, values, warns):
    check("model=simple_cnn", f"trainer.limit_train_batches={values}")
    found = "every job is a debug run (trainer.limit_train_batches=0.1), which no report ranks" in caplog.text
    assert found == warns


@pytest.mark.parametrize("launcher", ["submitit_slurm", "ray"])
def test_settings_that_another_machine_may_take_are_left_to_the_jobs(check, launcher):
    assert len(check("trainer.devices=1,2", "trainer.accelerator=gpu", launcher=launcher)) == 2


def test_a_check_that_takes_long_is_not_silent(in_process, monkeypatch, tmp_path):
    """Of 200 values nothing was shown for more than a minute."""
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    monkeypatch.setattr(progress, "POLL_S", 0.02)
    _, shown, error = in_process(
        train_script, "-m", "optimizer.lr=1e-3,2e-3,abc", f"hydra.sweep.dir={tmp_path / 'sweep'}"
    )
    assert "optimizer.lr=abc" in error and "checking the settings: 2 of 3 jobs" in shown + error
