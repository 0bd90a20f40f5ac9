"""What is told before torch is imported is what would be told after it."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import callbacks.command_line  # noqa: F401 registers the resolvers
from callbacks.build import build
from callbacks.quick_checks import GROUPS, quick_checks
from tests.helpers import PROJECT
from tests.test_configs import EXTRA, FILES

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
    quick_checks(composed(choice, *extra))


@pytest.mark.parametrize("override", [
    "optimizer.lr=fast", "+optimizer.momentum=0.9", "optimizer=sgd optimizer.lr=[1]", "augmentation.erasing=2",
    "augmentation.erasing=often", "augmentation.rotation_degrees=-1", "datamodule.batch_size=0",
    "datamodule.batch_size=2.5", "+datamodule.batchsize=4", "datamodule.train_fraction=0", "datamodule.leaks=dropp",
    "datamodule=image_folder", "datamodule=image_folder datamodule.root=/nowhere", "decision.threshold=best",
    "scheduler=plateau scheduler.monitor=val/los", "+scheduler.factor=2", "trainer.max_epochs=many",
    "+trainer.epochs=3", "callbacks.best.monitor=val/f1", "+loss.weight=3", "+logger.name=x", "trainer.precision=3.5",
    "datamodule.seed=null", "loss=focal loss.gamma=two", "model.image_size=0",
])  # fmt: skip
def test_it_says_what_the_building_says(override):
    config = composed(*override.split(" "))
    quick = said(lambda: quick_checks(config))

    def slow():
        from callbacks.checks import check_settings

        check_settings(config)
        data = build(config, "datamodule", augmentation=build(config, "augmentation"))
        if data.source == "image_folder":
            data.setup()
        given = {"loss": {"class_counts": [1, 1]} if config.loss.get("_partial_") else {}}
        given |= {"logger": {"folder": "x", "first_step": None}, "trainer": {"plugins": [], "logger": False}}
        for key in (*GROUPS[1:], *(f"callbacks.{name}" for name in config.callbacks)):
            build(config, key, **given.get(key, {}))

    allowed = "Allowed:"
    assert quick.split(allowed)[0] == said(slow).split(allowed)[0]


def test_a_missing_file_of_weights_is_told_where_it_is_needed(tmp_path):
    missing = f"model.weights={tmp_path / 'weights.pth'}"
    assert said(lambda: quick_checks(composed(missing))).startswith(f"{missing}: no such file")
    quick_checks(composed(missing, "stages=[cost]"))
    quick_checks(composed(missing, "ckpt_path=RUN/checkpoints/last.ckpt"))
    (tmp_path / "weights.pth").touch()
    quick_checks(composed(missing))
