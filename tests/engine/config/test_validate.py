"""What is told before torch is imported is what would be told after it."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import engine.cli  # noqa: F401 registers the resolvers
from engine.config.instantiate import instantiate
from engine.config.validate import GROUPS, validate_early
from tests.support.configs import EXTRA, FILES
from tests.support.helpers import PROJECT

CONF = PROJECT / "conf"


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def said(function) -> str:
    with pytest.raises(ValueError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_file_passes(file, tmp_path):
    choice = f"{file.parent.name}={file.stem}"
    extra = [text.replace("/nowhere", str(tmp_path)) for text in EXTRA.get(choice, [])]
    validate_early(composed(choice, *extra))


@pytest.mark.parametrize("override", [
    "optimizer.lr=fast", "+optimizer.momentum=0.9", "optimizer=sgd optimizer.lr=[1]", "augmentation.erasing=2",
    "augmentation.erasing=often", "augmentation.rotation_degrees=-1", "datamodule.batch_size=0",
    "datamodule.batch_size=2.5", "+datamodule.batchsize=4", "datamodule.train_fraction=0", "datamodule.on_leak=dropp",
    "datamodule=image_folder", "datamodule=image_folder datamodule.root=/nowhere", "decision.threshold_criterion=best",
    "scheduler=plateau scheduler.monitor=val/los", "+scheduler.factor=2", "trainer.max_epochs=many",
    "+trainer.epochs=3", "callbacks.best_checkpoint.monitor=val/f1", "+loss.weight=3", "+logger.name=x", "trainer.precision=3.5",
    "datamodule.seed=null", "loss=focal loss.gamma=two", "model.image_size=0",
])  # fmt: skip
def test_it_says_what_the_building_says(override):
    config = composed(*override.split(" "))
    quick = said(lambda: validate_early(config))

    def slow():
        from engine.config.validate_network import check_settings

        check_settings(config)
        data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
        if data.source == "image_folder":
            data.setup()
        given = {"loss": {"class_counts": [1, 1]} if config.loss.get("_partial_") else {}}
        given |= {"logger": {"folder": "x", "first_step": None}, "trainer": {"plugins": [], "logger": False}}
        for key in (*GROUPS[1:], *(f"callbacks.{name}" for name in config.callbacks)):
            instantiate(config, key, **given.get(key, {}))

    allowed = "Allowed:"
    assert quick.split(allowed)[0] == said(slow).split(allowed)[0]


def test_a_missing_file_of_weights_is_told_where_it_is_needed(tmp_path):
    missing = f"model.weights={tmp_path / 'weights.pth'}"
    assert said(lambda: validate_early(composed(missing))).startswith(f"{missing}: no such file")
    validate_early(composed(missing, "stages=[cost]"))
    validate_early(composed(missing, "ckpt_path=RUN/checkpoints/last.ckpt"))
    (tmp_path / "weights.pth").touch()
    validate_early(composed(missing))
