"""Measure what each cut of a backbone costs as `model=truncated` builds it, with two forward passes per image size."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.activation_memory import ActivationTracker
from lightning_modules.networks.blocks import Blocks, as_map, is_layer
from lightning_modules.networks.heads import build_head
from lightning_modules.networks.truncated import (
    BACKBONES,
    PROBE_SIZE,
    build_backbone,
    cut_after,
    cut_names,
    has_numbered_children,
    numbered_children,
    own_image_size,
    probe_sizes,
)
from lightning_modules.profiling import count_parameters, profile_thop

HEAD = {"hidden_dims": [], "dropout": [0.2]}  # the head of conf/model/truncated.yaml
CLASSES = 2


class CutCost(NamedTuple):
    """Describe a cut: the values of `keep` that select it, its output, and its cost with a head."""

    keep: str  # the name of its last block
    number: int | None  # number of blocks, if that selects it too
    features: int
    maps: tuple[tuple[int, ...], ...]  # shape of its output for each size, without the batch
    parameters: int
    weight_bytes: int  # of all tensors in its state dict
    macs: tuple[int, ...]  # thop's count for each size
    activations: tuple[int, ...]  # peak number of values in memory for each size


class BackboneCosts(NamedTuple):
    """Hold the cuts of a backbone before its pooling, in the order in which it runs them."""

    sizes: tuple[int, ...]  # image sizes at which the cuts were measured
    count: int
    cuts: list[CutCost]
    refused: dict[int, str]  # image sizes that the backbone does not accept, with the reason


class _Pass(NamedTuple):
    """Hold one forward pass: for each cut, the shape of its output, its activation number and its place in the operations."""

    network: nn.Module
    tracker: ActivationTracker
    places: dict[str, tuple[torch.Size, int | None, int]]


@torch.no_grad()
def cut_costs(
    backbone: str,
    sizes: tuple[int, ...] = (256, 128),
    only_last: bool = False,
    num_classes: int = CLASSES,
    head: dict = HEAD,
) -> BackboneCosts:
    """Measure each cut of a backbone at these image sizes, or at its own size if it accepts none of them.

    Raises:
        NetworkError: there is no such backbone, or the head does not fit.
    """
    with torch.device("meta"):
        whole = build_backbone(backbone).eval()
    own_size = own_image_size(whole)
    kept = dict(kept_parts(whole, backbone))
    numbers = {name: number for number, name in enumerate(cut_names(whole, backbone), 1)}
    # What follows the last block may need other image sizes, or fail without numbers
    networks = [whole, *list(kept.values())[-1:]]
    if backbone in BACKBONES and hasattr(whole, "features"):
        networks = [nn.Sequential(OrderedDict(features=whole.features))]
    passes, refused = {}, {}
    probing = probe_sizes(whole)
    wanted = (*sizes, PROBE_SIZE, own_size)
    for size in dict.fromkeys((*wanted, *probing)):
        if size not in wanted and passes.keys() & set(probing):
            break
        try:
            passes[size] = _first_pass(networks, list(kept), size)
        except (RuntimeError, ValueError, AssertionError) as error:
            refused[size] = error
    probed = next((size for size in probing if size in passes), None)
    if probed is None:
        raise refused[own_size]
    own_size, found = own_size if own_size in passes else probed, passes[probed]
    maps = {name: as_map(place[0], whole) for name, place in found.places.items()}
    cuts = [name for name in kept if maps.get(name) is not None]
    sizes = tuple(size for size in sizes if size in passes) or (own_size,)
    stated = {name: (count_parameters(kept[name]), _weight_bytes(kept[name])) for name in cuts}  # thop adds to them
    macs = [dict(_by_layer(profile_thop(passes[size].network, _image(size))[2])) for size in sizes]
    costs = []
    for name in cuts[-1:] if only_last else cuts:
        features, to_map = maps[name]
        built = build_head(features=features, num_classes=num_classes, **head)
        tail = nn.Sequential(to_map or nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), built).eval()
        parameters, weight_bytes = stated[name][0] + count_parameters(tail), stated[name][1] + _weight_bytes(tail)
        layers = {module for module, _ in kept[name].named_modules()}
        of_sizes = [
            _with_tail(passes[size], name, tail, sum(count for layer, count in counts.items() if layer in layers))
            for size, counts in zip(sizes, macs, strict=True)
        ]
        shapes = tuple(tuple(passes[size].places[name][0][1:]) for size in sizes)
        costs.append(
            CutCost(name, numbers.get(name), features, shapes, parameters, weight_bytes, *zip(*of_sizes, strict=True))
        )
    return BackboneCosts(sizes, len(cuts), costs, {size: " ".join(str(why).split()) for size, why in refused.items()})


def _first_pass(networks: Sequence[nn.Module], names: list[str], size: int) -> _Pass:
    """Pass an image through the first of these networks that takes it."""
    for network in networks[:-1]:
        with contextlib.suppress(RuntimeError, ValueError, AssertionError):
            return _track(network, names, size)
    return _track(networks[-1], names, size)


def _track(network: nn.Module, names: list[str], size: int) -> _Pass:
    """Pass an image through a network on the meta device."""
    tracker, places = ActivationTracker(image := _image(size)), {}

    def keep_place(output: object, name: str) -> None:
        if isinstance(output, Tensor):
            places.setdefault(name, (output.shape, tracker.number_of(output), len(tracker.operations)))

    modules = dict(network.named_modules())
    with contextlib.ExitStack() as hooks, tracker:
        for name in filter(modules.__contains__, names):
            hook = modules[name].register_forward_hook(lambda _, _inputs, output, name=name: keep_place(output, name))
            hooks.enter_context(hook)
        network(image)
    return _Pass(network, tracker, places)


def _with_tail(found: _Pass, name: str, tail: nn.Module, macs: float) -> tuple[int, int]:
    """Return the MACs of a cut and its tail, and the peak number of values in memory while both run."""
    shape, number, n_operations = found.places[name]
    features = torch.zeros(shape)
    with ActivationTracker(features) as tracker:
        tail(features)
    also_kept = found.tracker.sizes[number] - features.numel()  # if the features are a part of a larger activation
    peak = max(found.tracker.peak(number, n_operations), tracker.peak() + also_kept)
    return int(macs + profile_thop(tail, features)[0]), peak


def _weight_bytes(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _image(size: int) -> Tensor:
    return torch.zeros(1, 3, size, size, device="meta")


def kept_parts(whole: nn.Module, backbone: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield each cut: its name in the whole network, and the part of the network that it keeps."""
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


def _by_layer(layers: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, (count, _, inner) in layers.items():
        if inner:
            yield from _by_layer(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, count
