"""A backbone cut after one of its blocks, with a new head.

Shapes: B batch, C channels, H, W pixels, K classes.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model

WIDEST = 65_536  # of a layer of the head
PROBE_SIZE = 256  # pixels of the image that determines the backbone's channels; nothing is computed
CHANNELS: dict[tuple[str, int | str], int | None] = {}  # (backbone, keep) -> channels: a run builds its network thrice

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{name: functools.partial(torchvision_model, name=name, num_classes=1000) for name in TORCHVISION_WEIGHTS},
    "shufflenet_v1": functools.partial(shufflenet_v1, num_classes=1000),
    "simple_cnn": functools.partial(simple_cnn, num_classes=1000, image_size=48),
}


class Truncated(nn.Module):
    """Run the first blocks of a backbone, global average pooling and a small head.

    The head is, for `hidden_dims=[2]` and `dropout=[0.2, 0.02]`: dropout 0.2, linear to 2, dropout 0.02, linear to K.
    There is no activation between the linear layers: the study has none.

    The blocks keep the names that they have in the whole network, so that its state dict fits by its keys; `prefix` is
    what the whole network puts before them (`features.` or nothing).
    """

    def __init__(
        self,
        *,
        backbone: nn.Sequential,
        prefix: str,
        features: int,
        num_classes: int,
        hidden_dims: list[int],
        dropout: list[float],
    ):
        super().__init__()
        self.prefix = prefix
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential()
        for index, width in enumerate([*hidden_dims, num_classes]):
            self.head.add_module(f"dropout{index}", nn.Dropout(dropout[index]))
            self.head.add_module(f"linear{index}", nn.Linear(features, width))
            features = width

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        x = self.pool(self.backbone(x))  # (B, C, 1, 1)
        return self.head(x.flatten(1))  # (B, K)

    def weight_names(self) -> dict[str, str]:
        """Map the name of each backbone tensor in the state dict of the whole network to its name here."""
        return {self.prefix + name: f"backbone.{name}" for name in self.backbone.state_dict()}


def truncated(*, backbone: str, keep: int | str, head: dict, num_classes: int) -> Truncated:
    """Build `backbone` up to and with a block, with random weights.

    Args:
        keep: how many blocks, or the name of the last one. Blocks are the children of `features` where the backbone has
            one, else its own; a name may go deeper (`layer2.0`) along containers that run their children in order.
        head: `hidden_dims` of the linear layers before the last, `dropout` before each linear layer.

    Raises:
        NetworkError: an unknown backbone, a cut that is out of range or impossible, or a head that does not fit.
    """
    hidden_dims, dropout = _head(head)
    if backbone not in BACKBONES:
        raise NetworkError(f"model.backbone={backbone}: unknown", name=backbone, allowed=BACKBONES)
    whole = BACKBONES[backbone]()
    prefix = "features." if hasattr(whole, "features") else ""
    blocks = OrderedDict((whole.features if prefix else whole).named_children())
    names = list(blocks)
    if isinstance(keep, int):
        if not 1 <= keep <= len(names):
            raise NetworkError(
                f"model.keep={keep}: {backbone} has {len(names)} blocks ({', '.join(names)}); use 1 to {len(names)}"
            )
        kept = nn.Sequential(OrderedDict(list(blocks.items())[:keep]))
    else:
        kept = cut_after(blocks, keep.removeprefix(prefix), backbone)
    if (backbone, keep) not in CHANNELS:
        CHANNELS[backbone, keep] = feature_channels(kept)
    features = CHANNELS[backbone, keep]
    if features is None:
        raise NetworkError(
            f"model.keep={keep}: cannot cut {backbone} after {list(kept._modules)[-1]}, which works on pooled features, not "
            f"on a map of them. Cut earlier; the blocks are {', '.join(names)}"
        )
    return Truncated(
        backbone=kept,
        prefix=prefix,
        features=features,
        num_classes=num_classes,
        hidden_dims=hidden_dims,
        dropout=dropout,
    )


def _head(head: dict) -> tuple[list[int], list[float]]:
    """Return the checked `hidden_dims` and `dropout` of a head.

    Raises:
        NetworkError: others, or not one dropout before each linear layer.
    """
    hidden_dims, dropout = (head.get(key) for key in ("hidden_dims", "dropout"))
    lists = isinstance(hidden_dims, (list, tuple)) and isinstance(dropout, (list, tuple)) and len(head) == 2
    dims_fit = lists and all(type(width) is int and 1 <= width <= WIDEST for width in hidden_dims)
    if not dims_fit or not all(type(share) in (int, float) and 0 <= share <= 1 for share in dropout):
        raise NetworkError(
            f"model.head={str(head)[:200]}: use hidden_dims, whole numbers from 1 to {WIDEST:,}, and dropout, numbers from "
            "0 to 1: model.head.hidden_dims=[] model.head.dropout=[0.2]"
        )
    if len(dropout) != len(hidden_dims) + 1:
        raise NetworkError(
            f"model.head.dropout={dropout}: one dropout before each linear layer is needed, that is "
            f"{len(hidden_dims) + 1} for model.head.hidden_dims={hidden_dims} and the classes"
        )
    return list(hidden_dims), list(dropout)


def cut_after(blocks: OrderedDict[str, nn.Module], layer: str, backbone: str) -> nn.Sequential:
    """Return the blocks up to and with the named layer.

    Raises:
        NetworkError: no such layer, or it lies inside a block that does not run its children one after the other.
    """
    name, _, inner = layer.partition(".")
    if name not in blocks:
        raise NetworkError(f"model.keep={layer}: no such layer in {backbone}", name=name, allowed=blocks)
    names = list(blocks)
    kept = OrderedDict((n, blocks[n]) for n in names[: names.index(name) + 1])
    if inner:
        if not isinstance(kept[name], nn.Sequential):
            raise NetworkError(
                f"model.keep={layer}: {name} of {backbone} is a {type(kept[name]).__name__}, which cannot be cut inside; "
                f"use model.keep={name} or the block before"
            )
        kept[name] = cut_after(OrderedDict(kept[name].named_children()), inner, f"{backbone}'s {name}")
    return nn.Sequential(kept)


@torch.no_grad()
def feature_channels(backbone: nn.Module) -> int | None:
    """Return the channels of a backbone's feature map, from the shapes of a forward pass on torch's meta device.

    None where its last block is past the pooling of its network and gives no map.
    """
    try:
        features = on_meta(backbone)(torch.empty(1, 3, PROBE_SIZE, PROBE_SIZE, device="meta"))
    except RuntimeError:
        return None
    return features.shape[1] if features.dim() == 4 else None


def on_meta(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode without any numbers in it."""
    return copy.deepcopy(module).to("meta").eval()
