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
from lightning_modules.networks.heads import build_head
from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model

PROBE_SIZE = 256  # pixels of the image that determines the backbone's channels; nothing is computed
CHANNELS: dict[tuple[str, int | str], int | None] = {}  # (backbone, keep) -> channels: a run builds its network thrice

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{name: functools.partial(torchvision_model, name=name, num_classes=1000) for name in TORCHVISION_WEIGHTS},
    "shufflenet_v1": functools.partial(shufflenet_v1, num_classes=1000),
    "simple_cnn": functools.partial(simple_cnn, num_classes=1000, image_size=48),
}


class Truncated(nn.Module):
    """Run the first blocks of a backbone, global average pooling and a small head.

    The blocks keep the names that they have in the whole network, so that its state dict fits by its keys; `prefix` is
    what the whole network puts before them (`features.` or nothing).
    """

    def __init__(self, *, backbone: nn.Sequential, prefix: str, head: nn.Module):
        super().__init__()
        self.prefix = prefix
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = head

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
        head: `hidden_dims` of the linear layers before the last, `dropout` before each linear layer; or the `name` of a head
            of the user's own and its settings.

    Raises:
        NetworkError: an unknown backbone, a cut that is out of range or impossible, or a head that does not fit.
    """
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
    return Truncated(backbone=kept, prefix=prefix, head=build_head(features=features, num_classes=num_classes, **head))


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
