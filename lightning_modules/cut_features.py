"""Compute the pooled features of every cut of a backbone in one forward pass of the deepest cut.

Shapes: B batch, C channels, H = W pixels.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.networks.blocks import Blocks, ToMap, as_map
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.meta import on_meta
from lightning_modules.networks.truncated import (
    Truncated,
    build_backbone,
    has_numbered_children,
    numbered_children,
    probe_sizes,
)


def in_order(backbone: str, cuts: Iterable[str]) -> list[str]:
    """Return cuts in the order in which the backbone runs them; raise NetworkError if there is no such backbone or cut."""
    places = {name: place for place, name in enumerate(_names(backbone))}
    cuts = list(cuts)
    if unknown := [cut for cut in cuts if cut not in places]:
        raise NetworkError(f"{backbone} has no block {unknown[0]}", name=unknown[0], allowed=places)
    return sorted(cuts, key=places.__getitem__)


@functools.cache
def _names(backbone: str) -> tuple[str, ...]:
    """Return the names of all modules that a backbone can be cut after, in running order: children before their parent."""
    with torch.device("meta"):
        whole = build_backbone(backbone)
    if not has_numbered_children(backbone):
        return tuple(Blocks(whole).names)
    prefix, blocks = numbered_children(whole)
    return tuple(_children_first(nn.Sequential(blocks), prefix))


def _children_first(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        yield from _children_first(child, f"{prefix}{name}.")
        yield prefix + name


class CutFeatures(nn.Module):
    """Return the globally average-pooled features of each cut, the same as in a network that ends there.

    Args:
        network: `model=truncated`, cut after the last of `cuts`.
        cuts: names of last blocks, as in `cut_costs`.

    Raises:
        NetworkError: the network does not run a cut, or a cut has no feature map.
    """

    def __init__(self, network: Truncated, backbone: str, cuts: Sequence[str]):
        super().__init__()
        self.backbone, self.cuts = network.backbone, list(cuts)
        own = {cut: cut.removeprefix(network.prefix) for cut in self.cuts}
        maps = _maps(self.backbone, backbone, own.values())
        if missing := [cut for cut, name in own.items() if maps.get(name) is None]:
            raise NetworkError(f"{backbone} gives no feature map after {', '.join(missing)} in one pass")
        self.channels = [maps[name][0] for name in own.values()]
        self._found: dict[str, Tensor] = {}
        for cut, name in own.items():
            self.backbone.get_submodule(name).register_forward_hook(
                functools.partial(self._pool, cut=cut, to_map=maps[name][1])
            )

    def _pool(self, _module: nn.Module, _inputs: tuple, output: Tensor, *, cut: str, to_map: ToMap | None) -> None:
        """Store the mean of a block's output immediately, since the next block may change the output in place."""
        features = output if to_map is None else to_map(output)
        self._found[cut] = nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)

    def forward(self, x: Tensor) -> list[Tensor]:  # (B, 3, H, W)
        """Return (B, C) for each cut."""
        self._found = {}
        self.backbone(x)
        found, self._found = self._found, {}
        return [found[cut] for cut in self.cuts]


@torch.no_grad()
def _maps(kept: nn.Module, backbone: str, names: Iterable[str]) -> dict[str, tuple[int, ToMap | None] | None]:
    """Return the result of `as_map` for each block, from the shapes of one pass on torch's meta device."""
    with torch.device("meta"):
        whole = build_backbone(backbone)
    kept, shapes = on_meta(kept), {}
    for name in names:
        kept.get_submodule(name).register_forward_hook(
            lambda _, _inputs, output, name=name: shapes.update({name: getattr(output, "shape", torch.Size())})
        )
    for size in probe_sizes(whole):
        shapes.clear()
        try:
            kept.eval()(torch.empty(1, 3, size, size, device="meta"))
        except (RuntimeError, AssertionError):  # needs another image size
            continue
        break
    return {name: as_map(shape, whole) for name, shape in shapes.items()}
