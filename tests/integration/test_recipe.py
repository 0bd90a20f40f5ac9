"""recipe=fast: its pieces together, its optimizer, and small images against Pillow."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datamodules.normalize import as_batch, normalize
from engine.config.instantiate import instantiate
from lightning_modules.networks.registry import build_network
from lightning_modules.optim import discriminative_adamw
from tests.support.configs import composed
from tests.support.helpers import FINAL, at_step, make_images, outcome


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


@pytest.mark.slow
def test_interrupted_in_an_epoch_and_resumed_equals_never_stopped(train, monkeypatch, pretrained):
    options = ["recipe=fast", f"model.weights={pretrained}"]
    straight = train(*options)
    assert straight.status == 0, straight.err
    assert "linear probe: " in straight.out
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*options)
    assert stopped.status == 143
    ran = train(f"ckpt_path={stopped.folder / 'checkpoints' / 'last.ckpt'}", small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(ran.folder)


def test_a_small_image_is_that_of_pillow_to_two_levels(tmp_path):
    root = make_images(tmp_path / "images", {"train/red": 8, "train/blue": 8, "val/red": 2, "val/blue": 2}, size=40)
    config = composed("datamodule=image_folder", f"datamodule.root={root}", "model.image_size=40", "augmentation=none",
                      f"datamodule.cache={tmp_path}/cache")  # fmt: skip
    data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
    data.setup()
    batch = next(iter(data.unaugmented_train_dataloader()))
    data.trainer, data.train_size = SimpleNamespace(training=True), 30
    whole = [Image.fromarray(data.pixel_cache[row]) for row in batch["rows"].tolist()]
    theirs = np.stack([np.asarray(image.resize((30, 30), Image.Resampling.BILINEAR)) for image in whole])
    ours = data.on_after_batch_transfer(batch, 0)["pixels"]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    levels = (ours - normalize(as_batch(theirs), data.mean, data.std)) * torch.tensor(data.std).view(3, 1, 1) * 255
    assert levels.abs().max() < 2.01
