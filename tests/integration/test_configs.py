"""Every file under conf/ is composed, and what it describes is built."""

import pytest
from omegaconf import OmegaConf

import engine.cli  # noqa: F401 registers the resolvers
from engine.config.instantiate import instantiate
from tests.support.configs import CONF, EXTRA, FILES, composed


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_file_composes_to_a_complete_configuration(file):
    choice = f"{file.parent.name}={file.stem}"
    config = composed(choice, *EXTRA.get(choice, []))
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)["seed"] == 48763


def test_the_test_knows_all_groups():
    assert {f.parent.name for f in FILES} == {
        "augmentation", "callbacks", "datamodule", "decision", "experiment", "logger", "loss", "model", "optimizer",
        "recipe", "scheduler", "trainer",
    }  # fmt: skip


@pytest.mark.parametrize("name", [f.stem for f in FILES if f.parent.name == "augmentation"])
def test_every_augmentation_and_data_module_is_built(name):
    for datamodule in ("elpv", "image_folder"):
        choice = f"datamodule={datamodule}"
        config = composed(f"augmentation={name}", choice, *EXTRA.get(choice, []))
        data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
        assert data.image_size == config.model.image_size == 256


def test_final_model_is_the_study_s_recipe():
    config = composed("experiment=final_model")
    assert config.trainer.max_epochs == 50 and config.datamodule.batch_size == 16 and config.seed == 48763
    assert config.optimizer == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-4, "fused": True}
    assert (config.scheduler.factor, config.scheduler.patience) == (0.1, 7)
    augmentation = {key: value for key, value in config.augmentation.items() if key != "_target_"}
    assert augmentation == {"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation_degrees": 15, "color_jitter": 0,
                            "erasing": 0.5}  # fmt: skip


def test_the_command_line_s_choice_wins_over_an_experiment():
    assert composed("experiment=final_model", "optimizer=adam_1e-3").optimizer.lr == 1e-3


def test_one_screen_tells_the_run():
    assert len((CONF / "train.yaml").read_text().splitlines()) <= 40
