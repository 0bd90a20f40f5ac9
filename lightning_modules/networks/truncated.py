"""A backbone cut after one of its blocks, with a new head.

Shapes: B batch, C channels, H, W pixels, K classes.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .torchvision_models import torchvision_model


class Truncated(nn.Module):
    """The first blocks of a backbone, global average pooling and a small head.

    The head is, for `widths=[2]` and `dropout=[0.2, 0.02]`: dropout 0.2, linear to 2, dropout 0.02, linear to K.
    There is no activation between the linear layers: the study has none.

    The trunk keeps the backbone's own names, so that a state dict of the backbone fits by its keys;
    `prefix` is what the backbone puts before them (`features.` or nothing).
    """

    def __init__(
        self,
        *,
        trunk: nn.Sequential,
        prefix: str,
        features: int,
        num_classes: int,
        widths: list[int],
        dropout: list[float],
    ):
        super().__init__()
        self.prefix = prefix
        self.trunk = trunk
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential()
        for index, width in enumerate([*widths, num_classes]):
            self.head.add_module(f"dropout{index}", nn.Dropout(dropout[index]))
            self.head.add_module(f"linear{index}", nn.Linear(features, width))
            features = width

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        x = self.pool(self.trunk(x))  # (B, C, 1, 1)
        return self.head(x.flatten(1))  # (B, K)

    def weight_names(self) -> dict[str, str]:
        """The name of each trunk tensor in the whole backbone's state dict -> its name here."""
        return {self.prefix + name: f"trunk.{name}" for name in self.trunk.state_dict()}


@torch.no_grad()
def feature_channels(trunk: nn.Module) -> int:
    """Channels that the trunk gives, found out by a forward pass.

    Raises:
        ValueError: the trunk does not give a map of features (its last block is past the pooling of its network).
    """
    was_training = trunk.training
    try:
        features = trunk.eval()(torch.zeros(1, 3, 224, 224))
    except RuntimeError:
        features = None
    trunk.train(was_training)
    if features is None or features.dim() != 4:
        raise ValueError("the last kept block works on pooled features, not on a map of them")
    return features.shape[1]


def truncated(*, backbone: str, keep: int, head: dict, num_classes: int) -> Truncated:
    """Builds `backbone` up to and with its `keep`-th block (1 is the first).

    Blocks are the children of `features` where the backbone has one, else its own children.

    Raises:
        ValueError: keep out of range, or a head whose dropouts do not fit its widths.
    """
    widths, dropout = list(head["widths"]), list(head["dropout"])
    if len(dropout) != len(widths) + 1:
        raise ValueError(
            f"model.head.dropout={dropout}: one dropout before each linear layer is needed, that is "
            f"{len(widths) + 1} for model.head.widths={widths} and the classes"
        )
    network = torchvision_model(name=backbone, num_classes=1)
    prefix = "features." if hasattr(network, "features") else ""
    children = dict(network.features.named_children() if prefix else network.named_children())
    if not 1 <= keep <= len(children):
        raise ValueError(
            f"model.keep={keep}: {backbone} has {len(children)} blocks ({', '.join(children)}); "
            f"use 1 to {len(children)}"
        )
    trunk = nn.Sequential(OrderedDict(list(children.items())[:keep]))
    try:
        features = feature_channels(trunk)
    except ValueError as error:
        raise ValueError(
            f"model.keep={keep}: cannot cut {backbone} after {list(children)[keep - 1]}: {error}. "
            f"Use a smaller model.keep; the blocks are {', '.join(children)}"
        ) from error
    return Truncated(
        trunk=trunk, prefix=prefix, features=features, num_classes=num_classes, widths=widths, dropout=dropout
    )
