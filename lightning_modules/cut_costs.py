"""What each cut of a backbone costs, as `model=truncated` would build it, from one forward pass at each image size."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from lightning_modules.networks.blocks import Blocks, as_map, is_layer
from lightning_modules.networks.heads import build_head
from lightning_modules.networks.truncated import (
    BACKBONES,
    build_backbone,
    cut_after,
    cut_names,
    has_numbered_children,
    numbered_children,
    own_image_size,
)
from lightning_modules.profiling import count_parameters, profile_thop

HEAD = {"hidden_dims": [], "dropout": [0.2]}  # of conf/model/truncated.yaml
CLASSES = 2


class CutCost(NamedTuple):
    """Describe a cut: how it is asked for, what it gives, and what it costs with a head for two classes."""

    keep: str  # the name of its last block
    number: int | None  # of blocks, where it can be asked for by that
    features: int
    map: tuple[int, ...]  # what it gives for the first size, without the batch
    parameters: int
    macs: tuple[int, ...]  # thop's, of each size


@torch.no_grad()
def cut_costs(
    backbone: str, sizes: tuple[int, ...] = (256, 128), only_last: bool = False
) -> tuple[tuple[int, ...], int, list[CutCost]]:
    """Return the image sizes, the number of cuts before the pooling, and their costs in the order in which the network runs.

    A network for images of one size is measured at that.

    Args:
        only_last: return only the cost of the last cut.

    Raises:
        NetworkError: no such backbone.
    """
    with torch.device("meta"):
        whole = build_backbone(backbone).eval()
    own_size = (own_image_size(whole),)
    kept = dict(_kept(whole, backbone))
    numbers = {name: number for number, name in enumerate(cut_names(whole, backbone), 1)}
    if backbone in BACKBONES and hasattr(whole, "features"):  # what follows may want other sizes of images
        whole = nn.Sequential(OrderedDict(features=whole.features))
    seen: list[dict[str, torch.Size]] = []

    def keep_shape(output: object, name: str) -> None:
        seen[-1].setdefault(name, getattr(output, "shape", torch.Size()))

    for name in kept:
        whole.get_submodule(name).register_forward_hook(lambda _, _inputs, output, name=name: keep_shape(output, name))
    try:
        ops = _operations(whole, sizes, seen)
    except (RuntimeError, AssertionError):
        if sizes == own_size:
            raise
        return cut_costs(backbone, own_size, only_last)
    found = {name: as_map(seen[0].get(name, torch.Size()), whole) for name in kept}
    cuts = [name for name in kept if found[name] is not None]
    costs = []
    for name in cuts[-1:] if only_last else cuts:
        features, to_map = found[name]
        head = build_head(features=features, num_classes=CLASSES, **HEAD)
        tail = nn.Sequential(to_map or nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
        names = {module for module, _ in kept[name].named_modules()}
        macs = [
            sum(count for layer, count in of_size.items() if layer in names)
            + profile_thop(tail, torch.zeros(shapes[name]))[0]
            for of_size, shapes in zip(ops, seen, strict=True)
        ]
        parameters = count_parameters(kept[name]) + count_parameters(tail)
        shape = tuple(seen[0][name][1:])
        costs.append(CutCost(name, numbers.get(name), features, shape, parameters, tuple(map(int, macs))))
    return sizes, len(cuts), costs


def _kept(whole: nn.Module, backbone: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each cut and what it keeps, by the names of the whole network."""
    if not has_numbered_children(backbone):
        blocks = Blocks(whole)
        for name in blocks.cuts:
            yield name, blocks.upto(name)
        return
    prefix, blocks = numbered_children(whole)
    for name, block in blocks.items():
        holds = isinstance(block, nn.Sequential) and not all(map(is_layer, block))
        inner = [f"{name}.{each}" for each, _ in block.named_children()] if holds else []
        for layer in [*inner[:-1], name]:
            part = cut_after(blocks, layer, backbone)
            yield prefix + layer, nn.Sequential(OrderedDict(features=part)) if prefix else part


def _operations(whole: nn.Module, sizes: tuple[int, ...], seen: list[dict]) -> list[dict[str, float]]:
    """Return thop's count of each layer at each size; `seen` gets a mapping for each pass."""
    counts = []
    for size in sizes:
        seen.append({})
        counts.append(dict(_by_layer(profile_thop(whole, torch.zeros(1, 3, size, size, device="meta"))[2])))
    return counts


def _by_layer(layers: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, (count, _, inner) in layers.items():
        if inner:
            yield from _by_layer(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, count
