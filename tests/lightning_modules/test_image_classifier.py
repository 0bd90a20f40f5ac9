"""The LightningModule: every model file trains."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from common.errors import UserError
from common.run_record import RunRecord
from engine.config.instantiate import instantiate
from engine.run import stages
from lightning_modules.image_classifier import ImageClassifier
from tests.support.configs import CONF, composed
from tests.support.helpers import FINAL

MODELS = sorted(f.stem for f in (CONF / "model").glob("*.yaml"))
NAMED = {"timm": ["model.name=lcnet_050"]}


class Data:
    """Play the data module, with what a classifier needs of it."""

    image_size, fit, interpolation = 48, "squash", "bilinear"
    mean, std = [0.5] * 3, [0.25] * 3

    class catalog:  # noqa: N801
        classes = ("a", "b", "c")


def batches(count: int, size: int, side: int, classes: int = 3):
    torch.manual_seed(0)
    rows = torch.arange(size)
    return [
        {"pixels": torch.randn(size, 3, side, side), "labels": rows % classes, "rows": rows + i * size}
        for i in range(count)
    ]


def quiet_trainer(folder, **options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def marks_of(name: str) -> list:
    if name.startswith(("vgg", "resnet50", "densenet")):  # which take as long as all others together
        return [pytest.mark.slow]
    short = name in ("shufflenet_mod", "simple_cnn", "squeezenet1_1", "timm", "truncated")
    return [] if short else [pytest.mark.thorough]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in MODELS])
def test_every_model_file_trains_two_steps(name, tmp_path):
    if name == "timm":
        pytest.importorskip("timm", reason="needs the extra timm")
    config = composed(f"model={name}", *NAMED.get(name, []), "model.image_size=48")
    model = stages.build_model(config, Data)
    before = {key: tensor.clone() for key, tensor in model.network.named_parameters()}
    trainer = quiet_trainer(tmp_path, max_steps=2, max_epochs=1)
    loader = DataLoader(batches(2, 4, 48), batch_size=None)
    trainer.fit(model, loader, loader)
    assert trainer.global_step == 2
    changed = [key for key, tensor in model.network.named_parameters() if not torch.equal(tensor, before[key])]
    assert len(changed) > 0.9 * len(before)  # the rest are biases in front of a batch norm, whose gradient is nothing
    assert model.eval()(torch.randn(1, 3, 48, 48)).shape == (1, 3)
    described = stages.describe_model(OmegaConf.merge(config, {"stages": ["fit"]}), model, RunRecord())
    assert described.parameters == sum(p.numel() for p in model.network.parameters())


def classifier(**options) -> ImageClassifier:
    arguments = {"network": FINAL, "classes": ["a", "b"], "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    return ImageClassifier(**arguments | options)


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = classifier(optimizer=instantiate(composed(), "optimizer"))
    groups = model.configure_optimizers().param_groups
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters()) and len(set(listed)) == len(listed)


def test_an_impossible_network_is_a_user_error_with_the_closest_names():
    with pytest.raises(UserError, match=r"model\.backbone=shufflenet_v3: unknown; did you mean shufflenet_v1 or"):
        classifier(network=FINAL | {"backbone": "shufflenet_v3"})
    with pytest.raises(
        UserError, match=r"model\.kep: unknown for .*; did you mean keep\? Allowed: backbone, freeze, head"
    ):
        classifier(network=FINAL | {"kep": 3})
    with pytest.raises(UserError, match=r"model\.keep=8: shufflenet_v2_x0_5 has 7 blocks"):
        classifier(network=FINAL | {"keep": 8})


def test_a_mixed_batch_is_trained_on_its_shares_and_counts_the_larger_one():
    model = classifier().eval()
    batch = batches(1, 4, 32, classes=2)[0] | {"weights": torch.tensor([1.0, 2.0, 0.5, 1.0])}
    batch["targets"] = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    loss = model.training_step(batch, 0)
    log_p = model(batch["pixels"]).log_softmax(1)
    assert loss.item() == pytest.approx((-(batch["targets"] * log_p).sum(1) * batch["weights"]).mean().item())
    expected = (log_p.argmax(1) == torch.tensor([0, 1, 1, 0])).float().mean().item()
    assert model.train_metrics.compute_and_reset() == pytest.approx({"loss": loss.item(), "accuracy": expected})


def test_a_loss_that_takes_no_shares_is_refused_with_a_batch_transform():
    data = SimpleNamespace(batch_transform=torch.nn.Identity(), class_counts=[3, 4], sampler="shuffle")
    model = classifier(loss=torch.nn.MultiMarginLoss(reduction="none"))
    with pytest.raises(
        UserError, match=r"batch_transform with loss=MultiMarginLoss: the loss takes no class probabilities"
    ):
        stages.complete_loss(model, data)
    data.batch_transform = None
    stages.complete_loss(model, data)
