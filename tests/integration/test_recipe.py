"""The pieces of recipe=fast, each against arithmetic or a second path."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from callbacks.checkpoint import BestCheckpoint
from callbacks.freeze_batch_norm import FreezeBatchNorm
from callbacks.linear_probe import LinearProbe, first_linear, fold_standardization, standardization
from callbacks.progressive_resizing import ProgressiveResizing
from datamodules.normalize import as_batch, normalize
from engine.config.instantiate import instantiate
from lightning_modules.checkpoint import epochs_done, load_classifier
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.surgery import find_head
from lightning_modules.optim import discriminative_adamw
from tests.support.configs import composed
from tests.support.helpers import FINAL, at_step, make_images
from tests.support.killing import outcome


def test_head_and_backbone_have_their_rates_and_only_matrices_decay():
    network = build_network(num_classes=2, **FINAL)
    optimizer = discriminative_adamw(network, lr=1e-2, backbone_lr_factor=0.1, weight_decay=0.5, fused=True)
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        group = groups[id(parameter)]
        assert group["lr"] == pytest.approx(1e-2 if name.startswith("head.") else 1e-3), name
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0), name


def test_one_rate_for_all_needs_no_head():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = discriminative_adamw(network, lr=1e-2, backbone_lr_factor=1, weight_decay=0, fused=False)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    with pytest.raises(ValueError, match=r"optimizer.backbone_lr_factor: .* use 1"):
        discriminative_adamw(network, lr=1e-2, backbone_lr_factor=0.5, weight_decay=0, fused=False)


def test_a_folded_layer_gives_for_features_what_it_gave_for_standardized_ones():
    torch.manual_seed(0)
    features = 0.3 + 0.02 * torch.randn(50, 6)
    layer = nn.Linear(6, 3)
    mean, scale = standardization(features)
    before = layer((features - mean) / scale)
    fold_standardization(layer, mean, scale)
    assert torch.allclose(layer(features), before, atol=1e-4)


def test_every_network_s_head_has_a_layer_to_fold_into():
    for name in ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121"):
        assert isinstance(
            first_linear(find_head(build_network(network="torchvision", name=name, num_classes=2))), nn.Linear
        )


@pytest.fixture
def trained_once(tmp_path):
    """Weights of a network whose batch norms have seen images."""
    torch.manual_seed(0)
    network = build_network(num_classes=2, **FINAL)
    for _ in range(60):
        network(torch.randn(16, 3, 32, 32))
    torch.save(network.trunk.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_head_warm_up_learns_before_the_first_step_and_says_so(train, trained_once):
    still = [f"model.weights={trained_once}", "trainer.max_epochs=1", "optimizer=sgd", "optimizer.lr=1e-9"]
    plain, warm = train(*still), train(*still, "callbacks.linear_probe.steps=100")
    assert "head: 100 steps on the features of 24 images" in warm.out
    before, after = (load_classifier(ran.folder / "checkpoints" / "last.ckpt").state_dict() for ran in (plain, warm))
    changed = {
        name.split(".")[1]
        for name in before
        if "num_batches" not in name and not torch.allclose(before[name], after[name], atol=1e-3)
    }
    assert changed == {"head"}


def test_stopped_in_an_epoch_and_gone_on_with_equals_never_having_stopped(train, monkeypatch, trained_once):
    options = ["recipe=fast", f"model.weights={trained_once}"]
    straight = train(*options)
    assert straight.status == 0, straight.err
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*options)
    assert stopped.status == 143
    ran = train(f"ckpt_path={stopped.folder / 'checkpoints' / 'last.ckpt'}", small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(ran.folder)


def test_features_of_a_backbone_that_was_never_trained_are_not_learnt_from(train):
    ran = train("callbacks.linear_probe.steps=100", "trainer.max_epochs=1")
    assert any("the backbone was never trained" in warning for warning in ran.record["run"]["warnings"])


def norms_of(state, ending):
    return {name: value for name, value in state.items() if name.endswith(ending)}


def test_fixed_statistics_are_those_of_the_weights_while_scale_and_shift_learn(train, trained_once):
    ran = train(f"model.weights={trained_once}", "callbacks.freeze_batch_norm.enabled=true", "trainer.max_epochs=1")
    before = torch.load(trained_once, weights_only=True)
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for ending in ("running_mean", "running_var", "num_batches_tracked"):
        kept = norms_of(before, ending)
        assert len(kept) == 55  # one after each convolution of the trunk
        assert all(torch.equal(after[f"network.trunk.{name}"], value) for name, value in kept.items())
    learnt = {name: value for name, value in before.items() if name.endswith("bias")}  # convolutions have none
    assert all(not torch.equal(after[f"network.trunk.{name}"], value) for name, value in learnt.items())


def test_statistics_stay_fixed_when_a_frozen_backbone_thaws(train, trained_once):
    ran = train(f"model.weights={trained_once}", "callbacks.freeze_batch_norm.enabled=true", "model.freeze=1")
    assert ran.status == 0, ran.err
    before = norms_of(torch.load(trained_once, weights_only=True), "running_mean")
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(after[f"network.trunk.{name}"], value) for name, value in before.items())


@pytest.mark.parametrize("kept", [None, 5, [3], ["nope"], "", {"a": 1}])
def test_kept_norms_of_another_network_are_refused(kept):
    callback = FreezeBatchNorm(enabled=True)
    callback.setup(None, SimpleNamespace(network=build_network(num_classes=2, **FINAL)), "fit")
    with pytest.raises(ValueError, match="its batch norms"):
        callback.load_state_dict({"kept": kept})


@pytest.mark.parametrize(("done", "left"), [(True, [0.0, 0.0]), (False, [0.2, 0.02])])
def test_going_on_the_dropout_is_off_only_where_the_head_was_warmed_up(done, left):
    callback = LinearProbe(steps=1, lr=0.1, weight_decay=0)
    callback.load_state_dict({"done": done})
    network = build_network(num_classes=2, **FINAL)
    callback.on_train_start(SimpleNamespace(global_step=7), SimpleNamespace(network=network))
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == left


def test_batch_norms_that_were_never_trained_are_not_kept(train):
    ran = train("callbacks.freeze_batch_norm.enabled=true", "trainer.max_epochs=1")
    assert any("no batch norm here was trained before" in warning for warning in ran.record["run"]["warnings"])
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(int(value) == 3 for value in norms_of(after, "num_batches_tracked").values())  # 24 images, 8 a batch


def test_small_images_come_first_and_are_measured_whole(train, monkeypatch):
    seen = []
    usual = ImageClassifier.forward
    monkeypatch.setattr(
        ImageClassifier, "forward", lambda self, x: seen.append((self.training, x.shape[-1])) or usual(self, x)
    )
    ran = train(
        "callbacks.progressive_resizing.initial_scale=0.75",
        "callbacks.progressive_resizing.epoch_fraction=0.7",
        "trainer.max_epochs=3",
    )
    assert ran.status == 0, ran.err
    assert [side for training, side in seen if training] == 6 * [24] + 3 * [32]  # two of three epochs of three steps
    assert {side for training, side in seen if not training} == {32}


def test_a_small_image_is_that_of_pillow_to_two_levels(tmp_path):
    root = make_images(tmp_path / "images", {"train/red": 8, "train/blue": 8, "val/red": 2, "val/blue": 2}, size=40)
    config = composed("datamodule=image_folder", f"datamodule.root={root}", "model.image_size=40", "augmentation=none",
                      f"datamodule.cache={tmp_path}/cache")  # fmt: skip
    data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
    data.setup()
    batch = next(iter(data.plain_train_dataloader()))
    data.trainer, data.train_size = SimpleNamespace(training=True), 30
    whole = [Image.fromarray(data.store[row]) for row in batch["rows"].tolist()]
    theirs = np.stack([np.asarray(image.resize((30, 30), Image.Resampling.BILINEAR)) for image in whole])
    ours = data.on_after_batch_transfer(batch, 0)["pixels"]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    levels = (ours - normalize(as_batch(theirs), data.mean, data.std)) * torch.tensor(data.std).view(3, 1, 1) * 255
    assert levels.abs().max() < 2.01


def test_the_best_epoch_is_one_of_the_last_where_it_is_asked_for(train, monkeypatch):
    accuracies = iter([0.9, 0.8, 0.3, 0.5, 0.5, 0.5])
    usual = ImageClassifier.log
    monkeypatch.setattr(
        ImageClassifier,
        "log",
        lambda self, name, value, **o: usual(self, name, next(accuracies) if name == "val/accuracy" else value, **o),
    )
    ran = train("callbacks.best_checkpoint.select_after_fraction=0.5", "trainer.max_epochs=5", "stages=[fit]")
    assert ran.status == 0, ran.err
    assert ran.record["best"]["epoch"] == 4 and ran.record["best"]["value"] == 0.5  # of the third to the fifth
    assert epochs_done(ran.folder / "checkpoints" / "best.ckpt") == 4


def test_a_network_of_one_size_cannot_have_smaller_images(train):
    ran = train("model=simple_cnn", "model.image_size=48", "callbacks.progressive_resizing.initial_scale=0.5")
    assert (
        ran.status == 1
        and "callbacks.progressive_resizing.initial_scale=0.5: this network does not take images of 24" in ran.err
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: BestCheckpoint(monitor="val/loss", after=1),
            "callbacks.best_checkpoint.select_after_fraction=1: use a share from 0 to below 1",
        ),
        (
            lambda: ProgressiveResizing(scale=0, share=0.5),
            "callbacks.progressive_resizing.initial_scale=0: use a share above 0",
        ),
        (
            lambda: ProgressiveResizing(scale=0.5, share=1.5),
            "callbacks.progressive_resizing.epoch_fraction=1.5: use a share above 0",
        ),
        (lambda: LinearProbe(steps=-1, lr=0.1, weight_decay=0), "callbacks.linear_probe.steps=-1: use 0"),
    ],
)
def test_bad_values_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
