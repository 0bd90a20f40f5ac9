"""Map the weight names of torchvision, timm, this project and wrappers around them to the network's own names."""

import sys
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_modules.networks.surgery import HEADS

WRAPPERS = ("module", "_orig_mod", "network", "model", "backbone")  # prefixes that trainers and wrappers add to names
DEEPEST = 3  # nested prefixes
OF_CUT = "features."  # prefix in some whole networks of the names that a cut's backbone has

State = dict[str, Tensor]


def rename(state: State, network: nn.Module) -> State:
    """Return the weights under the network's own names, using the reading of their names with which the most weights fit."""
    own = network.state_dict()

    def fitting(named: State) -> int:
        return sum(name in own and tensor.shape == own[name].shape for name, tensor in named.items())

    return max(_readings(state, network), key=lambda named: (fitting(named), len(own.keys() & named.keys())))


def _readings(state: State, network: nn.Module) -> Iterator[State]:
    """Yield the weights under each reading of their names."""
    translate = network.weight_names() if hasattr(network, "weight_names") else {}  # whole network -> cut
    for named in _unwrapped(state):
        yield {translate.get(name, name): tensor for name, tensor in named.items()}
        yield {translate.get(OF_CUT + name, OF_CUT + name): tensor for name, tensor in named.items()}
        if converted := _by_timm(named, network):
            yield converted


def _unwrapped(state: State, depth: int = DEEPEST) -> Iterator[State]:
    """Yield the weights under their own names, then without the prefixes of wrappers."""
    yield state
    for wrapper in WRAPPERS if depth else ():
        if any(name.startswith(f"{wrapper}.") for name in state):
            inner = {name.removeprefix(f"{wrapper}."): tensor for name, tensor in state.items()}
            yield from _unwrapped(inner, depth - 1)


def _by_timm(state: State, network: nn.Module) -> State | None:
    """Return the weights after timm's conversion of the files of an architecture's authors; None if timm has none."""
    convert = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None or not hasattr(network, "pretrained_cfg"):
        return None
    try:
        converted = convert(dict(state), network)
    except Exception:  # the names are not those of these authors
        return None
    plain = isinstance(converted, dict) and all(isinstance(tensor, Tensor) for tensor in converted.values())
    return converted if plain else None


def is_plain(value: object) -> bool:
    """Return whether a value is a tensor that holds numbers, as a network's weights must."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta


def fits(tensor: Tensor, own: Tensor) -> bool:
    """Return whether a weight of a file can become `own`; torch would silently turn 8-bit integers into wrong floats."""
    return (
        tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point() and not tensor.is_complex()
    )


def head_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights of the network's head, which depends on the classes."""
    of_timm = f"{_head_of_timm(network)}."
    return [name for name in network.state_dict() if name.split(".")[0] in HEADS or name.startswith(of_timm)]


def last_layer(network: nn.Module) -> list[str]:
    """Return the names of the weights of the layer that computes the logits."""
    of_head = head_weights(network)
    return [name for name in of_head if name.rpartition(".")[0] == of_head[-1].rpartition(".")[0]]


def _head_of_timm(network: nn.Module) -> str | None:
    head = network.get_classifier() if hasattr(network, "get_classifier") else None
    return next((name for name, module in network.named_modules() if name and module is head), None)


def load_by_name(module: nn.Module, weights: State, *, strict: bool) -> None:
    """Load weights whose names and shapes were already compared with the module's.

    A plain dictionary lacks the versions of the layers that wrote it, without which torchvision's MNASNet refuses to load.
    The module's own versions are used, since weights that fit must have these versions.
    """
    versioned = OrderedDict(weights)
    versioned._metadata = module.state_dict()._metadata
    module.load_state_dict(versioned, strict=strict)
