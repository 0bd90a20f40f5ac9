"""The one place where configuration becomes objects."""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from common.text import did_you_mean
from engine.config import signatures

PLAIN = (str, int, float, bool, list, dict, type(None))
# A configuration is input, it never names code beyond this list: where a class is named -> where it is written
ALLOWED_TARGETS = {
    "callbacks": "callbacks",
    "datamodules": "datamodules",
    "lightning_modules": "lightning_modules",
    "evaluation.decision": "evaluation.decision",
    "torch.nn": "torch.nn.modules.loss",
    "torch.optim": "torch.optim",
    "lightning.Trainer": "lightning.pytorch.trainer",
    "lightning.pytorch.callbacks": "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers": "lightning.pytorch.loggers",
    "lightning.pytorch.profilers": "lightning.pytorch.profilers",
    "lightning.pytorch.strategies": "lightning.pytorch.strategies",
}
# whose functions may be named too
FACTORIES = ("lightning_modules.losses", "lightning_modules.optim", "lightning_modules.optim")


def instantiate(config: DictConfig, key: str, **arguments):
    """What the node `key` of the configuration describes, with further arguments; None where the node is empty.

    Raises:
        ValueError: a value of the wrong type, an unknown name or a value left open; names the key.
    """
    values = _values(config, key)
    if values is None:
        return None
    _check(key, values, given=arguments)
    try:
        return hydra.utils.instantiate(values, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if type(cause) in (ValueError, TypeError) or type(cause).__name__ == "MisconfigurationException":
            names_its_key = re.match(r"\w+\.[\w.]+[ =:]", str(cause))
            raise ValueError(str(cause) if names_its_key else f"{key}: {cause}") from error
        raise


def check_node(config: DictConfig, key: str, given: Collection[str] = ()) -> None:
    """Refuses what `build` would refuse with the arguments `given`, as far as can be told without importing anything.

    Raises:
        ValueError: as `build`.
    """
    values = _values(config, key)
    if values is not None:
        _check(key, values, given, lambda target, _: signatures.signature(target))


def _values(config: DictConfig, key: str) -> dict | None:
    node = OmegaConf.select(config, key)
    if not node:
        return None
    if not OmegaConf.is_dict(node):
        raise ValueError(f"{key}={str(node)[:60]!r}: expected a _target_ and its settings")
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key or key} has no value; give it one: {error.full_key or key}=VALUE") from error


def resolve_allowed_target(name, key: str) -> Callable:
    """The class that a `_target_` names, or the function of FACTORIES. Nothing that is not listed is imported.

    Raises:
        ValueError: anything else, as what a module has imported from elsewhere.
    """
    said = f"{key}._target_={str(name)[:100]}"
    module, _, last = str(name).rpartition(".")
    place = next((p for p in ALLOWED_TARGETS if f"{name}.".startswith(f"{p}.")), None)
    if place is None or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", name, re.ASCII):
        raise ValueError(
            f"{said}: a configuration cannot name this; allowed are the classes of {', '.join(ALLOWED_TARGETS)}"
        )
    try:
        home = importlib.import_module(module)
        found = getattr(home, last)
    except ImportError as error:
        raise ValueError(f"{said}: {module} cannot be imported ({error})") from error
    except AttributeError as error:
        raise ValueError(
            f"{said}: {did_you_mean(last, (n for n, v in vars(home).items() if _is_listed(v, place)))}"
        ) from error
    if not _is_listed(found, place):
        raise ValueError(
            f"{said}: is no class of {ALLOWED_TARGETS[place]}, and a configuration cannot name anything else there"
        )
    return found


def _is_listed(found, place: str) -> bool:
    factory = inspect.isfunction(found) and found.__module__ in FACTORIES
    written_in = f"{getattr(found, '__module__', '')}."
    return (inspect.isclass(found) or factory) and written_in.startswith(f"{ALLOWED_TARGETS[place]}.")


def _imported(target, key: str) -> inspect.Signature:
    """The signature of what a `_target_` names."""
    found = resolve_allowed_target(target, key)
    try:
        return inspect.signature(found, eval_str=True)
    except NameError:  # an annotation that its library imports for type checkers alone
        return inspect.signature(found)


def _check(key: str, values: dict, given: Collection[str] = (), signature_of: Callable = _imported) -> None:
    """The constructor's signature is the schema, of what is nested too."""
    if "_target_" not in values:
        raise ValueError(f"{key}._target_ has no value; give it one: a class of {', '.join(ALLOWED_TARGETS)}")
    found = signature_of(values["_target_"], key)
    if found is None:
        return
    parameters = found.parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not isinstance(values.get("_partial_", False), bool):
        raise ValueError(f"{key}._partial_={values['_partial_']!r}: use true or false")
    for name, value in values.items():
        if name in ("_target_", "_partial_"):
            continue
        _check_within(f"{key}.{name}", value, signature_of)
        if name not in parameters:
            if open_ended and not str(name).startswith("_"):
                continue
            raise ValueError(f"{key}.{name}: no such setting; {did_you_mean(str(name), set(parameters) - set(given))}")
        nested = isinstance(value, dict) and "_target_" in value
        if not nested and not matches_type(value, parameters[name].annotation):
            raise ValueError(f"{key}.{name}={value!r}: expected {type_name(parameters[name].annotation)}")


def _check_within(key: str, value, signature_of: Callable) -> None:
    """Whatever Hydra would build or put in below a setting."""
    if isinstance(value, dict) and any(str(name).startswith("_") for name in value):
        _check(key, value, (), signature_of)
    elif isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_within(f"{key}.{name}", item, signature_of)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(
            f"{key}={value[:100]!r}: there is still an interpolation in it once it is put in; use a plain text"
        )


def matches_type(value, annotation) -> bool:
    """Whether a plain value is of an annotated type. What is not annotated, or annotated by text, fits."""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (inspect.Parameter.empty, typing.Any) or isinstance(annotation, (str, typing.TypeVar)):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches_type(value, option) for option in options)
    if origin is typing.Literal:
        return value in options
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (list, tuple) or annotation in (list, tuple):
        kinds = [option for option in options if option is not Ellipsis]
        return isinstance(value, list) and (not kinds or all(any(matches_type(v, k) for k in kinds) for v in value))
    kind = origin or annotation
    return not isinstance(value, PLAIN) or not isinstance(kind, type) or isinstance(value, kind)


def type_name(annotation) -> str:
    """`int or null`, of an annotated type."""
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        plain = [o for o in typing.get_args(annotation) if o in PLAIN or typing.get_origin(o)]
        return " or ".join(type_name(o) for o in plain or typing.get_args(annotation))
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
