"""A backbone cut after one of its blocks, with a new head.

Shapes: B batch, C channels, H, W pixels, K classes.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.networks.blocks import Blocks, ToMap, as_map
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.heads import OWN, build_head, build_module, is_full_name
from lightning_modules.networks.meta import build_anywhere, on_meta
from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.timm_models import check_timm_name, timm_model
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model

PROBE_SIZE = 256  # pixels of the image from which the backbone's channels are found; only shapes are computed
USUAL_SIZES = (224, 192, 160, 128, 96, 64, 48, 32, 28)  # tried if a network does not take that, nor says what it takes
# (backbone, keep) -> result of `as_map`, kept since a run builds its network three times
FOUND: dict[tuple[str, int | str], tuple[int, ToMap | None]] = {}
IN_STAGES = {"mnasnet0_5", "regnet_y_400mf"}  # torchvision networks with few children, whose blocks are deeper

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{name: functools.partial(torchvision_model, name=name, num_classes=1000) for name in TORCHVISION_WEIGHTS},
    "shufflenet_v1": functools.partial(shufflenet_v1, num_classes=1000),
    "simple_cnn": functools.partial(simple_cnn, num_classes=1000, image_size=48),
}


class Truncated(nn.Module):
    """Run the first blocks of a backbone, global average pooling and a small head.

    The blocks keep their names from the whole network, so the keys of its state dict fit; `prefix` is what the whole network
    has before these names (`features.` or nothing).
    """

    def __init__(self, *, backbone: nn.Module, prefix: str, head: nn.Module):
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
    """Build `backbone` up to and including a block, with random weights.

    Args:
        backbone: name of a network of this project or of timm; if both have it, this project's is used. A name with timm's tag
            (`resnet18.a1_in1k`) is always timm's. Or the full name of the user's own, if that is registered.
        keep: the number of blocks, or the name of the last one. Blocks are the children of the backbone's `features` if it has
            one, else its own children; a name may go deeper (`layer2.0`) along containers that run their children in order.
            Blocks of timm networks and the user's own are those of `networks.blocks`.
        head: `hidden_dims` of the linear layers before the last and `dropout` before each linear layer; or the `name` of the
            user's own head and its settings.

    Raises:
        NetworkError: the backbone is unknown, the cut is out of range or impossible, or the head does not fit.
    """
    whole = build_backbone(backbone)
    if isinstance(keep, str) and not keep:
        raise NetworkError("model.keep has no value; give the number of blocks to keep, or the name of the last one")
    prefix = ""
    if has_numbered_children(backbone):
        prefix, children = numbered_children(whole)
        kept, names = _keep_children(children, prefix, backbone, keep), list(children)
        last = list(kept._modules)[-1]
    else:
        blocks = Blocks(whole)
        last, names = find_block(blocks, backbone, keep), blocks.cuts
        kept = blocks.upto(last)
    if (backbone, keep) not in FOUND:
        try:
            FOUND[backbone, keep] = features_of(kept, whole)
        except NetworkError as error:
            raise NetworkError(
                f"model.keep={keep}: cannot cut {backbone} after {last}, which gives no feature map: {error}. "
                f"Cut elsewhere; the blocks are {shorten(names)}"
            ) from error
    features, to_map = FOUND[backbone, keep]
    if to_map is not None:
        kept.to_map = copy.deepcopy(to_map)  # runs last in a sequence
    return Truncated(backbone=kept, prefix=prefix, head=build_head(features=features, num_classes=num_classes, **head))


def build_backbone(name: str) -> nn.Module:
    """Build a whole backbone for 1,000 classes, with random weights; raise NetworkError if there is none of this name."""
    if name in BACKBONES:
        return BACKBONES[name]()
    if name in OWN:
        called, given = f"model.backbone={name}", {"num_classes": 1000}
        return build_anywhere(lambda: build_module(called, OWN[name], "num_classes", given))
    try:
        check_timm_name(name, key="model.backbone", further=BACKBONES)
    except NetworkError as error:
        if not is_full_name(name) or not error.allowed:
            raise
        yours = f"if it is yours: register=[{name}]"
        if name.count(".") > 1 or name != name.lower():  # none that timm could have
            raise NetworkError(f"the backbone {name!r} is not one of this project or of timm; {yours}") from error
        raise NetworkError(f"{error.message}; {yours}", name=error.name, allowed=error.allowed) from error
    return timm_model(name=name, num_classes=1000)


def has_numbered_children(backbone: str) -> bool:
    """Return whether the blocks of a backbone are its children or those of its `features`, as in torchvision's networks."""
    return backbone in BACKBONES and backbone not in IN_STAGES


def cut_names(whole: nn.Module, backbone: str) -> list[str]:
    """Return the names of the blocks that `keep` counts."""
    if not has_numbered_children(backbone):
        return Blocks(whole).cuts
    prefix, blocks = numbered_children(whole)
    return [prefix + name for name in blocks]


def numbered_children(whole: nn.Module) -> tuple[str, OrderedDict[str, nn.Module]]:
    """Return the prefix and the children of the network's `features` if it has one, else of the network itself."""
    if hasattr(whole, "features"):
        return "features.", OrderedDict(whole.features.named_children())
    return "", OrderedDict(whole.named_children())


def shorten(names: list[str]) -> str:
    """Return names in order; of more than 30, only the first and the last 15."""
    if len(names) > 30:
        names = [*names[:15], "...", *names[-15:]]
    return ", ".join(names)


def find_block(blocks: Blocks, backbone: str, keep: int | str) -> str:
    """Return the name of the last block to keep.

    Raises:
        NetworkError: the backbone has no such block, or the name is that of a part of a block.
    """
    cuts = blocks.cuts
    if not cuts:
        raise NetworkError(
            f"model.backbone={backbone}: cannot be cut, because its blocks were not found ({_reason(blocks)})"
        )
    further = "" if blocks.stopped is None else f"; no further blocks were found ({_reason(blocks)})"
    if isinstance(keep, int):
        if not 1 <= keep <= len(cuts):
            raise NetworkError(
                f"model.keep={keep}: {backbone} has {len(cuts)} blocks ({shorten(cuts)}); use 1 to {len(cuts)}{further}"
            )
        return cuts[keep - 1]
    if keep in blocks.names:
        return keep
    if keep in blocks.ends:
        return blocks.ends[keep]
    block = next((name for name in blocks.names if keep.startswith(name + ".")), None)
    modules = dict(blocks.network.named_modules())
    if block and keep in modules:
        raise NetworkError(
            f"model.keep={keep}: {block} of {backbone} is a {type(modules[block]).__name__}, which cannot be cut inside; "
            f"use model.keep={block} or the block before"
        )
    if keep in modules:
        raise NetworkError(
            f"model.keep={keep}: {backbone} cannot be cut there, because {keep} is not a block that runs exactly once. "
            f"The blocks are {shorten(cuts)}{further}"
        )
    raise NetworkError(f"model.keep={keep}: no such block in {backbone}", name=keep, allowed=[*cuts, *blocks.ends])


def _reason(blocks: Blocks) -> str:
    """Return why no further blocks of a network were found."""
    return " ".join(str(blocks.stopped).split())[:200] if blocks.stopped else "it runs none"


def _keep_children(blocks: OrderedDict[str, nn.Module], prefix: str, backbone: str, keep: int | str) -> nn.Sequential:
    """Return the blocks to keep of a network whose blocks are its children."""
    names = list(blocks)
    if isinstance(keep, int):
        if not 1 <= keep <= len(names):
            raise NetworkError(
                f"model.keep={keep}: {backbone} has {len(names)} blocks ({', '.join(names)}); use 1 to {len(names)}"
            )
        return nn.Sequential(OrderedDict(list(blocks.items())[:keep]))
    return cut_after(blocks, keep.removeprefix(prefix), backbone, prefix, keep)


def cut_after(
    blocks: OrderedDict[str, nn.Module], layer: str, backbone: str, outer: str = "", typed: str | None = None
) -> nn.Sequential:
    """Return the blocks up to and including the named layer.

    Args:
        outer: prefix of the layer's name in the whole network.
        typed: the layer's name as the user typed it, with or without `outer`.

    Raises:
        NetworkError: there is no such layer, or it is inside a block that does not run its children one after the other.
    """
    name, _, inner = layer.partition(".")
    typed = typed or outer + layer
    if name not in blocks:
        within = f"{backbone}'s {outer.rstrip('.')}" if outer else backbone
        raise NetworkError(
            f"model.keep={typed}: no such layer in {within}", name=typed, allowed=[outer + each for each in blocks]
        )
    names = list(blocks)
    kept = OrderedDict((n, blocks[n]) for n in names[: names.index(name) + 1])
    if inner:
        if not isinstance(kept[name], nn.Sequential):
            raise NetworkError(
                f"model.keep={typed}: {outer}{name} of {backbone} is a {type(kept[name]).__name__}, which cannot be cut "
                f"inside; use model.keep={outer}{name} or the block before"
            )
        kept[name] = cut_after(OrderedDict(kept[name].named_children()), inner, backbone, f"{outer}{name}.", typed)
    return nn.Sequential(kept)


@torch.no_grad()
def features_of(kept: nn.Module, whole: nn.Module) -> tuple[int, ToMap | None]:
    """Return the result of `as_map` for a cut, from the shapes of a forward pass on torch's meta device.

    Raises:
        NetworkError: the last block is after the network's pooling and gives no map, or takes no image.
    """
    reason = None
    for size in probe_sizes(whole):
        try:
            features = on_meta(kept)(torch.empty(1, 3, size, size, device="meta"))
        except (RuntimeError, AssertionError) as error:  # needs another image size, or pooled features
            reason = reason or f"{size} x {size} pixels ({' '.join(str(error).split())[:200]})"
            continue
        found = as_map(features.shape, whole) if isinstance(features, Tensor) else None
        if found is None:
            raise NetworkError("it works on pooled features, or gives several maps")
        return found
    raise NetworkError(f"it works on pooled features, or takes no image of {reason}")


def probe_sizes(network: nn.Module) -> tuple[int, ...]:
    """Return the sides of the images to determine channels with; the first one that the network takes does."""
    own = own_image_size(network)
    return tuple(dict.fromkeys((PROBE_SIZE, own, *USUAL_SIZES)))


def own_image_size(network: nn.Module) -> int:
    """Return the image side that a network was made for, which timm's networks state; else PROBE_SIZE."""
    config = getattr(network, "pretrained_cfg", None) or {}
    return (config.get("input_size") or (3, PROBE_SIZE, PROBE_SIZE))[-1]
