"""Compare values of a configuration with type annotations."""

import inspect
import types
import typing

PLAIN = (str, int, float, bool, list, dict, type(None))


def matches_type(value, annotation) -> bool:
    """Return whether a plain value matches a type annotation; a missing or quoted annotation matches every value."""
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
    """Describe an annotated type in the notation of a configuration: `int or null`, `[str, ...]`."""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(dict.fromkeys(map(str, options)))
    if origin in (typing.Union, types.UnionType):
        plain = [o for o in options if o in PLAIN or typing.get_origin(o)]
        # Lightning's Literal[16, 32] | Literal["16", "32"] is one list of choices
        names = [
            typing.get_args(o) if typing.get_origin(o) is typing.Literal else [type_name(o)] for o in plain or options
        ]
        return " or ".join(dict.fromkeys(str(name) for of_option in names for name in of_option))
    if origin in (list, tuple):
        kinds = [type_name(o) for o in options if o is not Ellipsis]
        return f"[{', '.join(kinds if origin is tuple and Ellipsis not in options else [*kinds, '...'])}]"
    if annotation is bool:
        return "true or false"
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
