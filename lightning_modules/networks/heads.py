"""Heads of truncated backbones, from pooled features to logits, and the registry of the user's own networks and heads.

Shapes: B batch, C features, K classes.
"""

import inspect
from collections.abc import Callable

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_modules.networks.errors import NetworkError

WIDEST = 65_536  # features of a layer
# Full name -> the user's own network, backbone or head; filled by network_errors.register_by_name
OWN: dict[str, Callable[..., nn.Module]] = {}


def is_full_name(name: object) -> bool:
    """Return whether a name is the full name of a class or function in a module, as for the user's own."""
    return isinstance(name, str) and "." in name


def build_head(*, features: int, num_classes: int, name: str | None = None, **settings) -> nn.Module:
    """Build a head (B, C) -> (B, K): linear layers, or the user's own head by its full name.

    Raises:
        NetworkError: the settings do not fit, or the name is not registered.
    """
    if name is None:
        return _linear_layers(features, num_classes, settings)
    if name not in OWN:
        raise NetworkError(f"the head {name!r} is not one of this project; if it is yours: register=[{name}]")
    parameters = inspect.signature(OWN[name]).parameters
    if missing := [given for given in ("features", "num_classes") if given not in parameters]:
        raise NetworkError(f"model.head.name={name}: needs the argument {missing[0]}, which every head gets")
    accepted = [each for each in parameters if each not in ("features", "num_classes")]
    if unknown := sorted(set(settings) - set(accepted)):
        message = f"model.head.{unknown[0]}: unknown for the head {name}"
        if of_linear := [f"~model.head.{each}" for each in unknown if each in ("hidden_dims", "dropout")]:
            raise NetworkError(f"{message}, only for the built-in one; remove it with {' '.join(of_linear)}")
        raise NetworkError(message, name=unknown[0], allowed=accepted)
    gets = "features, num_classes and, by name, what model.head lists"
    arguments = {"features": features, "num_classes": num_classes, **settings}
    return build_module(f"model.head.name={name}", OWN[name], gets, arguments)


def build_module(called: str, build: Callable, gets: str, arguments: dict) -> nn.Module:
    """Build a network or a head, perhaps the user's own.

    Args:
        called: the setting that selects it, for messages.
        gets: description of the arguments, for messages.
        arguments: name -> value.

    Raises:
        NetworkError: `build` does not accept these arguments, or does not return a module that torch can use.
    """
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise NetworkError(f"{called}: {error}; it gets {gets}") from None
    built = build(**arguments)
    if not isinstance(built, nn.Module):
        raise NetworkError(f"{called}: returns a {type(built).__name__}, not a torch.nn.Module")
    if built.__hash__ is None:
        raise NetworkError(f"{called}: cannot be hashed, which torch requires; use @dataclass(eq=False)")
    if any(map(is_lazy, built.parameters())):
        raise NetworkError(f"{called}: has lazy layers, whose sizes are not known; give them their sizes")
    return built


def _linear_layers(features: int, num_classes: int, settings: dict) -> nn.Sequential:
    """Build, for `hidden_dims=[2]` and `dropout=[0.2, 0.02]`: dropout 0.2, linear to 2, dropout 0.02, linear to K.

    There is no activation between the linear layers, as in the study.
    """
    hidden_dims, dropout = _check(settings)
    head = nn.Sequential()
    for index, width in enumerate([*hidden_dims, num_classes]):
        head.add_module(f"dropout{index}", nn.Dropout(dropout[index]))
        head.add_module(f"linear{index}", nn.Linear(features, width))
        features = width
    return head


def _check(head: dict) -> tuple[list[int], list[float]]:
    """Return the checked `hidden_dims` and `dropout` of a head.

    Raises:
        NetworkError: a value is not allowed, or there is not one dropout for each linear layer.
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
            f"model.head.dropout={dropout}: give one dropout for each linear layer, "
            f"{len(hidden_dims) + 1} for model.head.hidden_dims={hidden_dims} and the classes"
        )
    return list(hidden_dims), list(dropout)
