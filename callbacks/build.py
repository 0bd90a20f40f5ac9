"""The one place where configuration becomes objects."""

import difflib
import inspect
import re
import types
import typing

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

PLAIN = (str, int, float, bool, list, dict, type(None))


def build(config: DictConfig, key: str, **arguments):
    """What the node `key` of the configuration describes, with further arguments; None where the node is empty.

    Raises:
        ValueError: a value of the wrong type, an unknown name or a value left open; names the key.
    """
    node = OmegaConf.select(config, key)
    if not node:
        return None
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key or key} has no value; give it one: {error.full_key or key}=VALUE") from error
    _check(key, values, given=arguments)
    try:
        return hydra.utils.instantiate(values, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if type(cause) in (ValueError, TypeError) or type(cause).__name__ == "MisconfigurationException":
            names_its_key = re.match(r"\w+\.[\w.]+[ =:]", str(cause))
            raise ValueError(str(cause) if names_its_key else f"{key}: {cause}") from error
        raise


def nearest(name: str, allowed) -> str:
    """`did you mean adam or adamw? Allowed: ...`; the closest names first."""
    allowed = sorted(map(str, allowed))
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}Allowed: {', '.join(allowed)}"


def _check(key: str, values: dict, given: dict) -> None:
    """The constructor's signature is the schema."""
    target = hydra.utils.get_object(values["_target_"])
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except NameError:  # an annotation that its library imports for type checkers alone
        parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in values.items():
        if name.startswith("_") or (isinstance(value, dict) and "_target_" in value):
            continue
        if name not in parameters:
            if open_ended:
                continue
            raise ValueError(f"{key}.{name}: no such setting; {nearest(name, set(parameters) - set(given))}")
        if not fits(value, parameters[name].annotation):
            raise ValueError(f"{key}.{name}={value!r}: expected {_in_words(parameters[name].annotation)}")


def fits(value, annotation) -> bool:
    """Whether a plain value is of an annotated type. What is not annotated, or annotated by text, fits."""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (inspect.Parameter.empty, typing.Any) or isinstance(annotation, (str, typing.TypeVar)):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in options)
    if origin is typing.Literal:
        return value in options
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (list, tuple) or annotation in (list, tuple):
        kinds = [option for option in options if option is not Ellipsis]
        return isinstance(value, list) and (not kinds or all(any(fits(v, k) for k in kinds) for v in value))
    kind = origin or annotation
    return not isinstance(value, PLAIN) or not isinstance(kind, type) or isinstance(value, kind)


def _in_words(annotation) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        plain = [o for o in typing.get_args(annotation) if o in PLAIN or typing.get_origin(o)]
        return " or ".join(_in_words(o) for o in plain or typing.get_args(annotation))
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
