"""Which jobs of a sweep are composed before anything is written."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper

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

    def run(*arguments):
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            config = compose("train", return_hydra_config=True)
            config.hydra.overrides.task = list(arguments)
            composing.check_jobs(config)
        return composed

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", recorded)
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", Sweeper.validate_batch_is_legal)
    return run


def test_one_job_of_each_combination_of_choices_is_composed(check):
    assert check("model=shufflenet_mod,resnet18", "optimizer=adam,sgd", "optimizer.lr=1,2", "seed=range(0,50)") == [
        [f"model={model}", f"optimizer={optimizer}", "optimizer.lr=1", "seed=0"]
        for model in ("shufflenet_mod", "resnet18")
        for optimizer in ("adam", "sgd")
    ]
    Sweeper.validate_batch_is_legal(object(), [["model=nope"]])  # not composed once more


def test_a_choice_that_does_not_exist_is_an_error(check):
    with pytest.raises(HydraException, match="nope"):
        check("optimizer=adam,nope", "seed=1,2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer=cpu,ddp", "trainer=ddp in a sweep: .*without -m"),
        ("debug=fast", "debug=fast in a sweep: .*without -m"),
    ],
)
def test_jobs_that_no_sweep_can_have_are_refused_before_it_starts(check, override, message):
    with pytest.raises(UserError, match=message):
        check(override, "seed=1,2")
