from types import SimpleNamespace

import pytest
import torch

from callbacks.freeze_batch_norm import FreezeBatchNorm, statistics_shift
from common.errors import UserError
from lightning_modules.networks.registry import build_network
from tests.support.helpers import FINAL


def norms_of(state, ending):
    return {name: value for name, value in state.items() if name.endswith(ending)}


def test_statistics_stay_those_of_the_weights_while_scale_and_shift_learn(train, pretrained):
    """Also after a frozen backbone is unfrozen, which is when its scale and shift begin to learn."""
    ran = train(
        f"model.weights={pretrained}", "callbacks.freeze_batch_norm.enabled=true", "model.freeze=1", "stages=[fit]"
    )
    assert ran.status == 0, ran.err
    before = torch.load(pretrained, weights_only=True)
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for ending in ("running_mean", "running_var", "num_batches_tracked"):
        kept = norms_of(before, ending)
        assert len(kept) == 55  # one after each convolution of the backbone
        assert all(torch.equal(after[f"network.backbone.{name}"], value) for name, value in kept.items())
    learned = norms_of(before, "bias")  # convolutions have none
    assert all(not torch.equal(after[f"network.backbone.{name}"], value) for name, value in learned.items())


def test_auto_does_not_claim_that_a_backbone_that_stays_frozen_learns_its_statistics(train, pretrained):
    ran = train(
        f"model.weights={pretrained}", "callbacks.freeze_batch_norm.enabled=auto", "model.freeze=true", "stages=[fit]",
        "callbacks.freeze_batch_norm.similar_below=0",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    before = norms_of(torch.load(pretrained, weights_only=True), "running_mean")
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(after[f"network.backbone.{name}"], value) for name, value in before.items())
    assert ran.record.batch_norms is None and "are learned" not in ran.out + ran.err


def test_batch_norms_without_pretrained_statistics_are_not_frozen(caplog):
    callback, model = FreezeBatchNorm(enabled=True), SimpleNamespace(network=build_network(num_classes=2, **FINAL))
    callback.setup(None, model, "fit")
    callback.on_train_start(None, model)
    assert "no pretrained batch-norm statistics to freeze" in caplog.text and callback.frozen == []
    assert all(module.training for module in model.network.modules())


@pytest.mark.parametrize("frozen", [None, 5, [3], ["nope"], "", {"a": 1}])
def test_frozen_norms_of_another_network_are_refused(frozen):
    callback = FreezeBatchNorm(enabled=True)
    callback.setup(None, SimpleNamespace(network=build_network(num_classes=2, **FINAL)), "fit")
    with pytest.raises(UserError, match="its frozen batch norms"):
        callback.load_state_dict({"frozen": frozen})


def trained_norms():
    """A network of two batch norms whose statistics are exactly those of the returned images."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.BatchNorm2d(3))
    images = torch.randn(40, 3, 6, 6) * torch.tensor([0.5, 1, 2]).view(1, 3, 1, 1) + 0.3
    x = images
    for layer in network:
        if isinstance(layer, torch.nn.BatchNorm2d):
            rows = x.transpose(0, 1).flatten(1)
            layer.running_mean, layer.running_var = rows.mean(1), rows.var(1, correction=0)
        x = layer.eval()(x).detach()
    return network, images


def test_the_shift_is_zero_for_the_images_of_the_statistics_and_the_divergence_of_two_normal_distributions_else():
    network, images = trained_norms()
    assert statistics_shift(network, ["0", "2"], images.split(8)) == pytest.approx(0, abs=1e-5)
    scaled = 1.7 * images + 0.4
    first = network[0]
    ours = scaled.transpose(0, 1).flatten(1).double()
    p = torch.distributions.Normal(ours.mean(1), ours.std(1, correction=0))
    q = torch.distributions.Normal(first.running_mean.double(), first.running_var.double().sqrt())
    expected = torch.distributions.kl_divergence(p, q).median()  # torch's own, of the batch norm that sees the images
    assert statistics_shift(network, ["0"], scaled.split(7)) == pytest.approx(float(expected), rel=1e-6)


def test_measuring_the_shift_changes_nothing_in_the_network():
    network, images = trained_norms()
    network.train()
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics_shift(network, ["0", "2"], images.split(8))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [layer.training for layer in network] == [True, True, False]
    assert not network[0]._forward_pre_hooks


@pytest.mark.thorough
@pytest.mark.parametrize("similar_below, kept", [(100, True), (0, False)])
def test_auto_keeps_the_statistics_or_learns_them_and_a_resumed_run_does_the_same(
    train, pretrained, similar_below, kept
):
    settings = (
        f"model.weights={pretrained}", "callbacks.freeze_batch_norm.enabled=auto", "optimizer=adam", "optimizer.lr=1e-3",
        f"callbacks.freeze_batch_norm.similar_below={similar_below}", "scheduler=none",
    )  # fmt: skip
    whole = train(*settings, "trainer.max_epochs=2", "stages=[fit]")
    assert whole.status == 0, whole.err
    choice = vars(whole.record.batch_norms)
    assert choice["kept"] is kept and choice["lr_factor"] == (0.2 if kept else 1) and choice["shift"] > 0
    assert ("their mean and variance are kept" in whole.err + whole.out) is kept
    before = torch.load(pretrained, weights_only=True)
    after = torch.load(whole.folder / "checkpoints" / "last.ckpt", weights_only=True)
    state = after["state_dict"]
    same = [torch.equal(state[f"network.backbone.{n}"], v) for n, v in norms_of(before, "running_mean").items()]
    assert same == [kept] * 55
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(2e-4 if kept else 1e-3)
    half = train(*settings, "trainer.max_epochs=1", "stages=[fit]")
    last = f"ckpt_path={half.folder / 'checkpoints' / 'last.ckpt'}"
    resumed = train(last, "trainer.max_epochs=2", "stages=[fit]", small=False, to=half.folder)
    assert resumed.status == 0, resumed.err
    again = torch.load(half.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(again["state_dict"][name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "choice", [5, {}, {"shift": 1, "kept": 3, "lr_factor": 1}, {"shift": 1, "kept": True, "lr_factor": 9}]
)
def test_a_malformed_choice_in_a_checkpoint_is_refused(choice):
    callback = FreezeBatchNorm(enabled="auto")
    callback.setup(None, SimpleNamespace(network=build_network(num_classes=2, **FINAL)), "fit")
    with pytest.raises(UserError, match="its choice of batch norms"):
        callback.load_state_dict({"frozen": [], "choice": choice})


@pytest.mark.parametrize("setting", [{"similar_below": -1}, {"lr_factor": 0}])
def test_settings_that_are_not_allowed_are_named(setting):
    with pytest.raises(UserError, match=f"callbacks.freeze_batch_norm.{next(iter(setting))}="):
        FreezeBatchNorm(enabled="auto", **setting)
