"""The files of conf/, and files and classes of the user's own beside them."""

import re
from pathlib import Path

import pytest
from lightning import Callback
from omegaconf import OmegaConf

from common.run_folder import PROJECT
from engine.config.instantiate import instantiate
from engine.config.validate import validate
from tests.support.composing import forget_files, remember_files
from tests.support.configs import FILES, compose_verb, composed
from tests.support.helpers import SIMPLE_CNN


class Stamp(Callback):
    """A callback of the user's own, which writes a file when training ends."""

    def __init__(self, text: str = "x"):
        self.text = text

    def on_fit_end(self, trainer, pl_module) -> None:
        with Path(trainer.default_root_dir, "stamp.txt").open("a") as file:
            file.write(self.text)


def test_what_tests_remember_of_files_is_what_hydra_makes_of_them():
    commands = [
        ("train", "optimizer.lr=3"),
        ("train", "optimizer.lr=4", "+trainer.x=1"),
        ("train", "augmentation=none", "experiment=plateau", "~callbacks.image_logger"),
        ("smallest", "optimizer.lr=3"),
    ]

    def composed_now() -> list:
        composed = [compose_verb(*command) for command in commands]
        # Not resolved, which would make the folder of a run
        return [(OmegaConf.to_container(each), each._metadata.flags) for each in composed]

    remembered = composed_now() + composed_now()
    forget_files()
    try:
        assert remembered == composed_now() * 2
    finally:
        remember_files()


@pytest.mark.parametrize("name", [f.stem for f in FILES if f.parent.name == "augmentation"])
def test_every_augmentation_is_built(name):
    config = validate(composed(f"augmentation={name}"))
    data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
    assert data.image_size == config.model.image_size == 256


V2 = "torchvision.transforms.v2"


@pytest.mark.thorough
@pytest.mark.parametrize(("augmentation", "mixed"), [
    ("random_resized_crop", ["batch_transform=mixup", "loss=focal"]),
    pytest.param("trivial_augment", ["batch_transform=cutmix", "loss=weighted_cross_entropy"], marks=pytest.mark.thorough),
    pytest.param("rand_augment", [f"+batch_transform._target_={V2}.RandomChoice",
                      f"+batch_transform.transforms=[{{_target_:{V2}.MixUp,alpha:1}},{{_target_:{V2}.CutMix}}]"],
                 marks=pytest.mark.thorough),
    ("study_upright", ["batch_transform=cutmix", "teacher=best.ckpt"]),
])  # fmt: skip
def test_every_augmentation_trains_with_mixed_batches(train, finished_run, augmentation, mixed):
    mixed = [text.replace("best.ckpt", str(finished_run.folder / "checkpoints" / "best.ckpt")) for text in mixed]
    ran = train(f"augmentation={augmentation}", *mixed, *SIMPLE_CNN, "trainer.max_epochs=1")
    assert ran.status == 0, ran.err
    of_results = (
        "test: no better than guessing",
        "decision.threshold_criterion",  # no threshold divides the few images
        "no temperature is fitted",
        "the temperature is at a bound",
        "near duplicate: not looked for",  # of 16 pixels
        "RANDOM WEIGHTS",
    )
    assert not [text for text in ran.record.run.warnings if not text.startswith(of_results)]
    assert ran.record.test.accuracy.n == 14
    assert ran.record.run.choices["augmentation"] == augmentation


def test_final_model_is_the_study_s_recipe():
    config = composed("experiment=final_model")
    assert config.trainer.max_epochs == 50 and config.datamodule.batch_size == 16 and config.seed == 48763
    assert config.optimizer == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-4, "fused": True}
    assert (config.scheduler.factor, config.scheduler.patience) == (0.1, 7)
    augmentation = {key: value for key, value in config.augmentation.items() if key != "_target_"}
    assert augmentation == {"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation_degrees": 15, "color_jitter": 0,
                            "erasing": 0.5, "crop_scale": None}  # fmt: skip


def test_the_command_line_s_choice_wins_over_an_experiment():
    assert composed("experiment=final_model", "optimizer=adam_1e-3").optimizer.lr == 1e-3


@pytest.mark.parametrize("verb", sorted(path.stem for path in PROJECT.glob("conf/*.yaml")))
def test_every_setting_of_a_command_is_read_by_the_code(verb):
    """A word in quotes or after a point is enough; the settings of classes are checked against their constructors."""
    rooms = [folder for folder in PROJECT.iterdir() if (folder / "__init__.py").is_file() and folder.name != "tests"]
    code = "".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    settings = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / f"{verb}.yaml"))
    nested = [value for key, value in settings.items() if isinstance(value, dict) and key != "hydra"]
    names = [key for node in (settings, *nested) for key in node if key != "defaults"]
    assert [name for name in names if not re.search(rf"""[.'"]{name}\b""", code)] == []


def test_none_is_a_choice():
    config = validate(composed("scheduler=none", "logger=none"))
    assert instantiate(config, "scheduler") is None and instantiate(config, "logger") is None


@pytest.mark.thorough
def test_callbacks_can_be_a_file_of_the_user_s_own(train, tmp_path):
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    node = {"stamp": {"_target_": f"{Stamp.__module__}.Stamp", "text": "mine"}}
    OmegaConf.save(OmegaConf.create(node), tmp_path / "conf" / "callbacks" / "mine.yaml")
    own = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "callbacks=mine"]
    settings = ["stages=[fit]", "model=simple_cnn", "logger=none", "trainer.max_epochs=1"]
    first = train(*settings, *own, drawn=True)
    assert first.status == 0, first.err
    assert (first.folder / "stamp.txt").read_text() == "mine"
    files = ["best.ckpt", "best.safetensors", "last.ckpt"]
    assert sorted(path.name for path in (first.folder / "checkpoints").iterdir()) == files

    last, more = f"ckpt_path={first.folder / 'checkpoints' / 'last.ckpt'}", ["stages=[fit]", "trainer.max_epochs=2"]
    resumed = train(last, *more, own[0], small=False, to=first.folder)
    assert resumed.status == 0, resumed.err
    assert (first.folder / "stamp.txt").read_text() == "minemine"


def test_a_class_of_the_user_s_own_can_be_typed(train):
    stamp = f"+callbacks.stamp._target_={Stamp.__module__}.Stamp"
    ran = train("stages=[fit]", "model=simple_cnn", "logger=none", "trainer.max_epochs=1", stamp)
    assert ran.status == 0 and (ran.folder / "stamp.txt").read_text() == "x", ran.err
    again = train(f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}", "trainer.max_epochs=2", small=False)
    assert again.status == 1 and "callbacks.stamp._target_ is" in again.err, again.err
