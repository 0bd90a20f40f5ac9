"""The pieces of recipe=fast, each against arithmetic or a second path."""

import os
import signal

import pytest
import torch
from torch import nn

from callbacks.head_warm_up import HeadWarmUp, first_linear, fold_in, standardisation
from lightning_modules.checkpoint import load_classifier
from lightning_modules.networks import build_network, head_of
from lightning_modules.optimizers import fine_tuning_adamw
from tests.helpers import FINAL, at_step
from tests.killing import outcome


def test_head_and_backbone_have_their_rates_and_only_matrices_decay():
    network = build_network(num_classes=2, **FINAL)
    optimizer = fine_tuning_adamw(network, lr=1e-2, backbone_lr_factor=0.1, weight_decay=0.5, fused=True)
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        group = groups[id(parameter)]
        assert group["lr"] == pytest.approx(1e-2 if name.startswith("head.") else 1e-3), name
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0), name


def test_one_rate_for_all_needs_no_head():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = fine_tuning_adamw(network, lr=1e-2, backbone_lr_factor=1, weight_decay=0, fused=False)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    with pytest.raises(ValueError, match=r"optimizer.backbone_lr_factor: .* use 1"):
        fine_tuning_adamw(network, lr=1e-2, backbone_lr_factor=0.5, weight_decay=0, fused=False)


def test_a_folded_layer_gives_for_features_what_it_gave_for_standardised_ones():
    torch.manual_seed(0)
    features = 0.3 + 0.02 * torch.randn(50, 6)
    layer = nn.Linear(6, 3)
    mean, scale = standardisation(features)
    before = layer((features - mean) / scale)
    fold_in(layer, mean, scale)
    assert torch.allclose(layer(features), before, atol=1e-4)


def test_every_network_s_head_has_a_layer_to_fold_into():
    for name in ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121"):
        assert isinstance(
            first_linear(head_of(build_network(network="torchvision", name=name, num_classes=2))), nn.Linear
        )


@pytest.fixture
def trained_once(tmp_path):
    """Weights of a network whose batch norms have seen pictures."""
    torch.manual_seed(0)
    network = build_network(num_classes=2, **FINAL)
    for _ in range(60):
        network(torch.randn(16, 3, 32, 32))
    torch.save(network.trunk.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_head_warm_up_learns_before_the_first_step_and_says_so(train, trained_once):
    still = [f"model.weights={trained_once}", "trainer.max_epochs=1", "optimizer=sgd", "optimizer.lr=1e-9"]
    plain, warm = train(*still), train(*still, "callbacks.head_warm_up.steps=100")
    assert "head: 100 steps on the features of 24 pictures" in warm.out
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
    ran = train("callbacks.head_warm_up.steps=100", "trainer.max_epochs=1")
    assert any("the backbone was never trained" in warning for warning in ran.record["run"]["warnings"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HeadWarmUp(steps=-1, lr=0.1, weight_decay=0), "callbacks.head_warm_up.steps=-1: use 0"),
    ],
)
def test_bad_values_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
