"""Settings that are typed more than once."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.idle import warn_of_repeated
from engine.cli import CONF


@pytest.mark.parametrize(("typed", "warning"), [
    (["optimizer.lr=1", "optimizer.lr=2"], "optimizer.lr=1: overridden by optimizer.lr=2, which comes later"),
    (["model=simple_cnn", "seed=1", "model=resnet18"], "model=simple_cnn: overridden by model=resnet18, which comes later"),
    (["+model.width=1", "++model.width=2"], "+model.width=1: overridden by ++model.width=2, which comes later"),
    (["seed=1", "seed=1"], ""),
    (["~logger", "logger=csv"], ""),
    (["--config-dir=a", "--config-dir=b", "-m", "seed=1,2"], ""),
])  # fmt: skip
def test_a_setting_that_is_typed_twice_is_warned_of(caplog, typed, warning):
    warn_of_repeated(["python", "train.py", *typed])
    assert [record.getMessage() for record in caplog.records] == [warning] * bool(warning)


def test_hydra_takes_the_last_one():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["model=simple_cnn", "optimizer.lr=1", "model=resnet18", "optimizer.lr=2"])
    assert (config.model.name, OmegaConf.select(config, "optimizer.lr")) == ("resnet18", 2)
