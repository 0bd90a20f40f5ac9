"""A backbone cut after one of its blocks, with a new head.

Shapes: B batch, C channels, H, W pixels, K classes.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model, unknown

WIDEST = 65_536  # of a layer of the head
PROBE_SIZE = 256  # pixels of the image that finds out the trunk's channels; nothing is computed


def _named(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision_model(name=name, num_classes=1000)


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{name: _named(name) for name in TORCHVISION_WEIGHTS},
    "shufflenet_v1": lambda: shufflenet_v1(num_classes=1000),
    "simple_cnn": lambda: simple_cnn(num_classes=1000, image_size=48),
}


class Truncated(nn.Module):
    """The first blocks of a backbone, global average pooling and a small head.

    The head is, for `hidden_dims=[2]` and `dropout=[0.2, 0.02]`: dropout 0.2, linear to 2, dropout 0.02, linear to K.
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
        hidden_dims: list[int],
        dropout: list[float],
    ):
        super().__init__()
        self.prefix = prefix
        self.trunk = trunk
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential()
        for index, width in enumerate([*hidden_dims, num_classes]):
            self.head.add_module(f"dropout{index}", nn.Dropout(dropout[index]))
            self.head.add_module(f"linear{index}", nn.Linear(features, width))
            features = width

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        x = self.pool(self.trunk(x))  # (B, C, 1, 1)
        return self.head(x.flatten(1))  # (B, K)

    def weight_names(self) -> dict[str, str]:
        """The name of each trunk tensor in the whole backbone's state dict -> its name here."""
        return {self.prefix + name: f"trunk.{name}" for name in self.trunk.state_dict()}


def truncated(*, backbone: str, keep: int | str, head: dict, num_classes: int) -> Truncated:
    """Builds `backbone` up to and with a block, with random weights.

    Args:
        keep: how many blocks, or the name of the last one. Blocks are the children of `features` where the backbone has
            one, else its own; a name may go deeper (`layer2.0`) along containers that run their children in order.
        head: `hidden_dims` of the linear layers before the last, `dropout` before each linear layer.

    Raises:
        ValueError: an unknown backbone, a cut that is out of range or impossible, or a head that does not fit.
    """
    hidden_dims, dropout = _head(head)
    if len(dropout) != len(hidden_dims) + 1:
        raise ValueError(
            f"model.head.dropout={dropout}: one dropout before each linear layer is needed, that is "
            f"{len(hidden_dims) + 1} for model.head.hidden_dims={hidden_dims} and the classes"
        )
    if backbone not in BACKBONES:
        raise ValueError(unknown(f"model.backbone={backbone}", backbone, list(BACKBONES)))
    network = BACKBONES[backbone]()
    prefix = "features." if hasattr(network, "features") else ""
    blocks = OrderedDict((network.features if prefix else network).named_children())
    names = list(blocks)
    if isinstance(keep, int):
        if not 1 <= keep <= len(names):
            raise ValueError(
                f"model.keep={keep}: {backbone} has {len(names)} blocks ({', '.join(names)}); use 1 to {len(names)}"
            )
        trunk = nn.Sequential(OrderedDict(list(blocks.items())[:keep]))
    else:
        trunk = cut_after(blocks, keep.removeprefix(prefix), backbone)
    try:
        features = feature_channels(trunk)
    except ValueError as error:
        raise ValueError(
            f"model.keep={keep}: cannot cut {backbone} after {list(trunk._modules)[-1]}: {error}. "
            f"Cut earlier; the blocks are {', '.join(names)}"
        ) from error
    return Truncated(
        trunk=trunk, prefix=prefix, features=features, num_classes=num_classes, hidden_dims=hidden_dims, dropout=dropout
    )


def _head(head: dict) -> tuple[list[int], list[float]]:
    """Widths and dropout; raises ValueError where they are none."""
    hidden_dims, dropout = (head.get(key) for key in ("hidden_dims", "dropout"))
    good = (
        set(head) == {"hidden_dims", "dropout"}
        and isinstance(hidden_dims, (list, tuple))
        and isinstance(dropout, (list, tuple))
    )
    good = good and all(type(width) is int and 1 <= width <= WIDEST for width in hidden_dims)
    if not good or not all(type(share) in (int, float) and 0 <= share <= 1 for share in dropout):
        raise ValueError(
            f"model.head={str(head)[:200]}: use hidden_dims, whole numbers from 1 to {WIDEST:,}, and dropout, numbers from 0 to 1: "
            "model.head.hidden_dims=[] model.head.dropout=[0.2]"
        )
    return list(hidden_dims), list(dropout)


def cut_after(blocks: OrderedDict[str, nn.Module], layer: str, backbone: str) -> nn.Sequential:
    """The blocks up to and with the named layer.

    Raises:
        ValueError: no such layer, or it lies inside a block that does not run its children one after the other.
    """
    name, _, inner = layer.partition(".")
    if name not in blocks:
        raise ValueError(f"model.keep={layer}: no such layer in {backbone}; there is {', '.join(blocks)}")
    names = list(blocks)
    kept = OrderedDict((n, blocks[n]) for n in names[: names.index(name) + 1])
    if inner:
        if not isinstance(kept[name], nn.Sequential):
            raise ValueError(
                f"model.keep={layer}: {name} of {backbone} is a {type(kept[name]).__name__}, which cannot be cut inside; "
                f"use model.keep={name} or the block before"
            )
        kept[name] = cut_after(OrderedDict(kept[name].named_children()), inner, f"{backbone}'s {name}")
    return nn.Sequential(kept)


@torch.no_grad()
def feature_channels(trunk: nn.Module) -> int:
    """Channels that the trunk gives, found out by a forward pass of shapes alone (torch's meta device).

    Raises:
        ValueError: the trunk does not give a map of features (its last block is past the pooling of its network).
    """
    try:
        features = on_meta(trunk)(torch.empty(1, 3, PROBE_SIZE, PROBE_SIZE, device="meta"))
    except RuntimeError:
        features = None
    if features is None or features.dim() != 4:
        raise ValueError("the last kept block works on pooled features, not on a map of them")
    return features.shape[1]


def on_meta(module: nn.Module) -> nn.Module:
    """A copy in eval mode without any numbers in it."""
    return copy.deepcopy(module).to("meta").eval()
