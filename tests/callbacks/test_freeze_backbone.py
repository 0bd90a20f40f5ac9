from collections import OrderedDict
from types import SimpleNamespace

import pytest
from torch import nn

from callbacks.freeze_backbone import FreezeBackbone


@pytest.mark.parametrize(("epochs", "of_training", "fast", "warns"), [
    (3, 3, 0, True), (3, 2, 0, True), (3, 4, 0, False), (3, -1, 0, False), (True, 1, 0, False), (3, 1, 1, False),
])  # fmt: skip
def test_a_backbone_that_is_never_unfrozen_is_warned_of(caplog, epochs, of_training, fast, warns):
    """Not in a debug run of one epoch, nor where steps or a time limit end the training (max_epochs=-1)."""
    trainer = SimpleNamespace(max_epochs=of_training, fast_dev_run=fast, current_epoch=0)
    network = nn.Sequential(OrderedDict(backbone=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 2)))
    FreezeBackbone(epochs=epochs).on_train_start(trainer, SimpleNamespace(network=network))
    text = f"model.freeze={epochs}: the backbone is never unfrozen in trainer.max_epochs={of_training}"
    assert [each.partition(";")[0] for each in caplog.messages] == [text] * warns
    assert not network.backbone.weight.requires_grad and network.head.weight.requires_grad
