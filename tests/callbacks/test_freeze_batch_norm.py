from types import SimpleNamespace

import pytest
import torch

from callbacks.freeze_batch_norm import FreezeBatchNorm
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
