"""What the validator refuses, before anything is read or trained, and what it returns."""

import inspect
import re
from itertools import zip_longest

import pytest
import torch
import yaml
from omegaconf import OmegaConf, open_dict
from torch import nn
from torch.optim import SGD

from common.errors import UserError
from engine.config import validate as validation
from engine.config.validate import check_image_size, validate
from lightning_modules.network_errors import register_by_name
from lightning_modules.networks.registry import build_network, network_arguments
from tests.support.configs import EXTRA, FILES, composed


class Unknown(SGD):
    """An optimizer of the user's own."""

    def __init__(self, params, lr: float, *, decay: float = 0.0):
        super().__init__(params, lr)


def changed(*overrides: str):
    """Compose with the choices of `overrides`; change single settings without Hydra, which takes longer."""
    choices = [text for text in overrides if "." not in text.partition("=")[0] and "~" not in text]
    config = composed(*choices)
    with open_dict(config):
        for text in (text for text in overrides if text not in choices):
            key, _, value = text.lstrip("+").partition("=")
            above, _, name = key.lstrip("~").rpartition(".")
            if key.startswith("~"):
                del (OmegaConf.select(config, above) if above else config)[name]
            else:
                OmegaConf.update(config, key, yaml.safe_load(value), merge=False, force_add=True)
    return config


@pytest.fixture
def refused():
    """Return the message that a configuration is refused with."""

    def refuse(*overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            validate(changed(*overrides))
        return str(caught.value)

    return refuse


def files_together() -> list[list[str]]:
    """Return all files: the first of each group, the second of each, and so on; each file that chooses others by itself."""
    groups = {}
    for file in FILES:
        groups.setdefault(file.parent.name, []).append(f"{file.parent.name}={file.stem}")
    of_others = [[choice] for group in ("debug", "experiment", "recipe") for choice in groups.pop(group)]
    return of_others + [list(filter(None, choices)) for choices in zip_longest(*groups.values())]


@pytest.mark.parametrize("choices", files_together(), ids=",".join)
def test_every_file_passes(choices):
    more = [setting for choice in choices for setting in EXTRA.get(choice, [])]
    validate(composed(*choices, *more, *["trainer.accelerator=cpu"] * ("trainer=gpu" in choices)))


@pytest.mark.parametrize(("overrides", "message"), [
    ("optimizer.lr=" + "9" * 400, "optimizer.lr: its whole number has more than 64 bits; use one below"),
    ("scheduler.epochs=" + "9" * 400, "scheduler.epochs: its whole number has more than 64 bits; use one below"),
    ("optimizer.lr=fast", "optimizer.lr=fast: expected float"),
    ("optimizer=sgd optimizer.lr=[1]", "optimizer.lr=[1]: expected float"),
    ("+optimizer.betas=0.9", "optimizer.betas=0.9: expected [float, float]"),
    ("augmentation.crop_scale=0.5", "augmentation.crop_scale=0.5: expected [float, ...] or null"),
    ("+optimizer.momentum=0.9", "optimizer.momentum: no such setting; allowed: amsgrad, betas"),
    ("loss=weighted_cross_entropy +loss.x=1", "loss.x: no such setting; WeightedCrossEntropy has none; remove it"),
    ("optimizer.lr=-1", "optimizer.lr=-1: Invalid learning rate: -1; use 0 or more"),
    ("optimizer.lr=.nan", "optimizer.lr=nan: Invalid learning rate: nan; use 0 or more"),
    ("optimizer.lr=.inf", "optimizer.lr=inf: use a finite number"),
    ("optimizer=sgd +optimizer.momentum=-0.5", "optimizer.momentum=-0.5: Invalid momentum value: -0.5; use 0 or more"),
    ("+optimizer.betas=[0.9,1.5]", "optimizer.betas=[0.9, 1.5]: Invalid beta parameter at index 1: 1.5"),
    ("optimizer=adamw_discriminative optimizer.backbone_lr_factor=-1", "optimizer.backbone_lr_factor=-1: use 0 or more"),
    ("~optimizer.fused optimizer=adamw_discriminative", "optimizer.fused has no value; give it one: optimizer.fused=VALUE"),
    ("scheduler=none +scheduler._target_=torch.optim.lr_scheduler.StepLR", "scheduler.step_size has no value; give it one: "),
    ("scheduler=plateau scheduler.monitor=val/los", "scheduler.monitor=val/los: expected train/loss or train/accuracy or"),
    ("scheduler=plateau scheduler.factor=2", "scheduler.factor=2: use a number above 0 and below 1"),
    ("+scheduler.factor=2", "scheduler.factor: no such setting"),
    ("augmentation.erasing=often", "augmentation.erasing=often: expected float"),
    ("datamodule.image_size=32", "datamodule.image_size=32: must equal the network's size, model.image_size=256"),
    ("model.image_size=null", "model.image_size=null: use a whole number of pixels, or auto"),
    ("datamodule.batch_size=2.5", "datamodule.batch_size=2.5: expected int"),
    ("+datamodule.batchsize=4", "datamodule.batchsize: no such setting; did you mean batch_size"),
    ("+datamodule.archive=4", "datamodule.archive: no such setting; did you mean cache or batch_size? 20 others are allowed. "
     "A setting of its source goes below source: datamodule.source.archive"),
    ("datamodule.on_leak=dropp", "datamodule.on_leak=dropp: expected warn or error or drop"),
    ("datamodule.seed=null", "datamodule.seed=null: expected int"),
    ("model=timm", "model.name has no value; give it one: model.name=VALUE"),
    ("model.keep=[1]", "model.keep=[1]: expected int or str"),
    ("decision.threshold_criterion=best", "decision.threshold_criterion=best: expected"),
    ("trainer.max_epochs=null", "trainer.max_epochs=null: use a whole number of 1 or more"),
    ("trainer.max_epochs=many", "trainer.max_epochs=many: use a whole number of 1 or more"),
    ("+trainer.epochs=3", "trainer.epochs: no such setting"),
    ("+trainer.logger=false", "trainer.logger=false: cannot be used here: loggers have a group: logger=none"),
    ("+optimizer.params=[]", "optimizer.params: not a setting, since every run sets it itself"),
    ("trainer.precision=3.5", "trainer.precision=3.5: expected"),
    ("callbacks.best_checkpoint.monitor=val/f2", "callbacks.best_checkpoint.monitor=val/f2: expected val/accuracy"),
    ("~callbacks.linear_probe.lr", "callbacks.linear_probe.lr has no value"),
    ("+callbacks.mine=5", "callbacks.mine='5': expected a _target_ and its settings"),
    ("+callbacks._target_=x.Y", "callbacks._target_=x.Y: has no name, and needs one since several can be chosen; write"),
    ("+callbacks.mine.a=1", "callbacks.mine._target_ has no value"),
    ("+loss._target_=torch.nn.L1Los", "loss._target_=torch.nn.L1Los: not found in torch.nn; did you mean L1Loss"),
    ("+loss._target_=nowhere.X", "loss._target_=nowhere.X: cannot be imported (No module named 'nowhere')"),
    ("+loss._target_=os.sep", "loss._target_=os.sep: is neither a class nor a function"),
    ("+loss._target_=torch.nm.L1Loss", "loss._target_=torch.nm.L1Loss: torch has no module nm; check the name"),
    ("+loss._target_=../../x.y", "loss._target_=../../x.y: use the full name of a class"),
    ("+loss._target_=torch.nn.functional.cross_entropy", "loss._target_=torch.nn.functional.cross_entropy: is a function"),
    ("+loss.weight=3", "loss.weight: no such setting"),
    ("loss=focal loss.gamma=two", "loss.gamma=two: expected float"),
    ("+logger.name=x", "logger.name='x': expected a _target_ and its settings"),
    ("logger=csv +logger.csv.nam=x", "logger.csv.nam: no such setting; did you mean name"),
    ("callbacks=early_stopping callbacks.early_stopping.patience=often", "callbacks.early_stopping.patience=often: expected"),
    ("~loss", "loss=null: choose a file of conf/loss: loss=NAME"),
    ("~model.image_size", "model.image_size=null: use a whole number of pixels, or auto"),
    ("callbacks.ema.enabled=often", "callbacks.ema.enabled=often: expected true or false"),
    ("trainer.precision=fp16", "trainer.precision=fp16: expected 64 or 32 or 16 or transformer-engine or "
     "transformer-engine-float16 or 16-true or 16-mixed or bf16-true or bf16-mixed or 32-true or 64-true or bf16 or null"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1: use a number above 0, or null"),
    ("stages=[test]", "stages=[test]: without fit there is nothing to test; add ckpt_path=RUN/checkpoints/best.ckpt"),
])  # fmt: skip
def test_a_mistake_is_named(refused, overrides, message):
    assert refused(*overrides.split(" ")).startswith(message)


@pytest.mark.parametrize(("group", "value", "message"), [
    ("datamodule", "image_folder", "datamodule=image_folder: choose a file of conf/datamodule: datamodule=NAME"),
    ("model", {}, "model={}: choose a file of conf/model: model=NAME"),
    ("metrics", True, "metrics='True': choose files of conf/metrics: metrics=NAME or metrics=[A,B]"),
    ("model", {"name": "tiny", "network": "my.Tiny"}, "model.freeze is missing; begin the model's file with defaults: [base"),
    ("model", {"name": "tiny", "_target_": "my.Tiny", "freeze": None}, "model.network is missing; name what builds it, as"),
    ("datamodule", {"root": "x", "source": {}}, "datamodule._target_ is missing; begin the file of the data with defaults: ["),
    ("datamodule", {"_target_": "my.Cells", "root": "x"}, "datamodule.source is missing; name the class that lists"),
    ("augmentation", [{"_target_": "my.Flip"}], "augmentation: its file holds only a list; put it below transforms:"),
])  # fmt: skip
def test_what_a_file_of_a_group_sets_or_lacks_is_named(group, value, message):
    config = changed()
    OmegaConf.update(config, group, value, merge=False)
    with pytest.raises(UserError, match="^" + re.escape(message)):
        validate(config)


@pytest.mark.parametrize("node", [
    {"_target_": "torch.optim.Adam", "_partial_": True, "_args_": [1]},
    {"_target_": "torch.optim.Adam", "_partial_": "yes"},
    {"_target_": "torch.optim.Adam", "_partial_": True, "_recursive_": False},
    {"_target_": "torch.optim.Adam", "_partial_": True, "_convert_": "none"},
    {"_target_": "torch.optim.Adam", "_partial_": True, "betas": {"_partial_": True}},
    {"_target_": "torch.optim.Adam", "_partial_": True, "lr": [{"deep": {"_target_": "nowhere.Thing"}}]},
    {"lr": 1}, "os.system", ["os.system"],
], ids=str)  # fmt: skip
def test_special_keys_and_nested_nodes_are_checked(node):
    config = composed()
    OmegaConf.update(config, "optimizer", node, merge=False)
    with pytest.raises(UserError, match=r"^optimizer"):
        validate(config)


@pytest.mark.parametrize("value", ["\\${oc.env:SECRET}", "${trainer.accelerator}{oc.env:SECRET}"])
def test_nothing_is_resolved_twice(monkeypatch, value):
    monkeypatch.setenv("SECRET", "swordfish")
    config = composed()
    OmegaConf.update(config, "trainer.accelerator", "\\$" if value.startswith("${") else "cpu")
    OmegaConf.update(config, "trainer.strategy", value)
    with pytest.raises(UserError, match=r"^trainer\.(strategy|accelerator)") as caught:
        validate(config)
    assert "swordfish" not in str(caught.value)


def test_a_single_number_is_left_to_the_message_of_a_range():
    assert validate(changed("datamodule.range=5")).datamodule.range == 5


def test_what_is_returned_is_resolved_and_in_order():
    config = validate(changed("stages=[test,cost,fit]", "~callbacks"))
    assert config.stages == ["cost", "fit", "test"] and config.callbacks == {}
    assert "${" not in OmegaConf.to_yaml(config)
    assert config.scheduler.epochs == config.trainer.max_epochs


def test_a_class_of_the_user_s_own_is_the_schema_of_its_settings(refused):
    mine = f"optimizer._target_={Unknown.__module__}.Unknown"
    config = validate(changed(mine, "optimizer.lr=0.1", "~optimizer.fused", "+optimizer.decay=0.5"))
    assert config.optimizer.decay == 0.5
    assert refused(mine, "~optimizer.fused", "+optimizer.decy=1").endswith("did you mean decay? Allowed: decay, lr")


def test_a_missing_file_of_weights_matters_only_where_it_is_needed(refused, tmp_path):
    missing = f"model.weights={tmp_path / 'weights.pth'}"
    assert refused(missing).startswith(f"{missing}: no such file")
    validate(changed(missing, "stages=[cost]"))
    validate(changed(missing, "ckpt_path=RUN/checkpoints/last.ckpt"))
    (tmp_path / "weights.pth").touch()
    validate(changed(missing))


def test_trying_the_optimizer_draws_no_random_numbers():
    import torch

    state = torch.get_rng_state()
    validate(composed("optimizer=adamw_discriminative", "scheduler=one_cycle"))
    assert torch.equal(state, torch.get_rng_state())


def test_the_arguments_that_a_run_gives_exist():
    """A library that renames one would otherwise let users set it."""
    config = composed("loss=weighted_cross_entropy")
    for key in ("datamodule", "loss"):
        parameters = inspect.signature(validation.resolve_target(config[key]._target_, key)).parameters
        assert set(validation.GIVEN[key]) <= set(parameters), key


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_tiny_patch16_224", 256, "model.image_size=256: vit_tiny_patch16_224 does not take it; try model.image_size=224"),
        ("vit_tiny_patch16_224", 64, "model.image_size=64 is too small for vit_tiny_patch16_224; the smallest is 224"),
    ],
)  # fmt: skip
def test_a_network_for_images_of_one_size_names_it(name, size, message):
    pytest.importorskip("timm", reason="needs the extra timm")
    config = composed("model=timm", f"model.name={name}", f"model.image_size={size}")
    with torch.device("meta"):
        network = build_network(network="timm", name=name, num_classes=2)
    with pytest.raises(UserError, match=re.escape(message)):
        check_image_size(config, network, 2)


class WideHead(nn.Linear):
    """A head that forgets its last class, or what it is given."""

    def __init__(self, *, features: int, num_classes: int, more_in: int = 0, more_out: int = 0):
        super().__init__(features + more_in, num_classes + more_out)


class SoftmaxHead(nn.Linear):
    """A head that forgets that the loss has a softmax."""

    def __init__(self, *, features: int, num_classes: int):
        super().__init__(features, num_classes)

    def forward(self, x):
        return super().forward(x).softmax(1)


class OfOneSize(nn.Module):
    """A backbone with a position for each of 7 x 7 patches, which only images of 28 x 28 have."""

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.patch, self.body, self.fc = nn.Conv2d(3, 2, 4, 4), nn.Conv2d(2, 5, 1), nn.Linear(5, num_classes)
        self.positions = nn.Parameter(torch.zeros(2, 7, 7))

    def forward(self, x):
        return self.fc(self.body(self.patch(x) + self.positions).mean((2, 3)))


@pytest.mark.parametrize("head", [{"hidden_dims": [], "dropout": [0.2]}, {"name": f"{__name__}.WideHead"}])
def test_a_size_that_a_backbone_of_the_user_s_own_does_not_take_is_named(head):
    name = f"{__name__}.OfOneSize"
    register_by_name([name, f"{__name__}.WideHead"], "register")
    config = composed("model=truncated", f"model.backbone={name}", "model.keep=body", "model.image_size=32")
    with open_dict(config):
        config.model.head = head
    network = build_network(**network_arguments(OmegaConf.to_container(config.model)), num_classes=2)
    with pytest.raises(
        UserError, match=rf"^model\.backbone={re.escape(name)}: does not take an image of 32 x 32: The size of tensor"
    ):
        check_image_size(config, network, 2)
    check_image_size(OmegaConf.merge(config, {"model": {"image_size": 28}}), network, 2)


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        ("WideHead", {"more_out": 1}, "gives (1, 3) for one image; it must give logits (1, classes): (1, 2)"),
        ("WideHead", {"more_in": 1}, "does not take an image of 32 x 32: mat1 and mat2 shapes cannot be multiplied"),
        ("SoftmaxHead", {}, "gives probabilities, which add up to 1, not logits; remove its softmax"),
    ],
)
def test_a_head_of_the_user_s_own_is_tried_before_training(head, settings, message):
    name = f"{__name__}.{head}"
    register_by_name([name], "model.head.name")
    config = composed("model=truncated", "model.backbone=simple_cnn", "model.keep=1", "model.image_size=32")
    with open_dict(config):
        config.model.head = {"name": name, **settings}
    network = build_network(**network_arguments(OmegaConf.to_container(config.model)), num_classes=2)
    with pytest.raises(UserError, match=re.escape(f"model.head.name={name}: {message}")):
        check_image_size(config, network, 2)
