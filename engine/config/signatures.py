"""What a class or a function takes, read from its source: to import it would be to import torch, which takes seconds."""

import ast
import functools
import importlib.util
import inspect
import re
import typing
from pathlib import Path

PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict}


class OfTorch:
    """Stands for a type that no value of a configuration has."""


def signature(name: str) -> inspect.Signature | None:
    """Of `module.name`, with the annotations that are of plain types; anything else is typing.Any.

    None where it cannot be told, as of a class without a constructor of its own.
    """
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", str(name), re.ASCII):
        return None
    module, _, last = name.rpartition(".")
    node, module = _definition(module, last)
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        node = made[-1] if made else None
    if not isinstance(node, ast.FunctionDef):
        return None
    kinds = inspect.Parameter
    found = [(argument, kinds.POSITIONAL_OR_KEYWORD) for argument in (*node.args.posonlyargs, *node.args.args)]
    found += [(argument, kinds.KEYWORD_ONLY) for argument in node.args.kwonlyargs]
    found += [(node.args.kwarg, kinds.VAR_KEYWORD)] if node.args.kwarg else []
    parameters = [
        kinds(arg.arg, kind, annotation=_type(arg.annotation, module)) for arg, kind in found if arg.arg != "self"
    ]
    return inspect.Signature(parameters)


def _definition(module: str, name: str) -> tuple[ast.stmt | None, str]:
    """What a module defines under a name, or imports from where it is defined; and the module that does."""
    path = _file(module)
    imports = []
    for node in reversed(_parsed(path).body) if path else ():
        named = node.targets[0] if isinstance(node, ast.Assign) else node
        if name in (getattr(named, "name", None), getattr(named, "id", None)):
            return node, module
        if isinstance(node, ast.ImportFrom):
            imports.append(node)
    for wanted in (name, "*"):
        for node in imports:
            for alias in node.names:
                if (alias.asname or alias.name) == wanted:
                    found = _definition(_absolute(node, module, path), name if wanted == "*" else alias.name)
                    if found[0] is not None:
                        return found
    return None, module


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    return ".".join([*package[: len(package) + 1 - node.level], *([node.module] if node.module else [])])


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _file(module: str) -> Path | None:
    """The source of a module, found without importing the package that it is in."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        place = Path(folder, *rest)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _type(node: ast.expr | None, module: str):
    """An annotation as a type, of those that values of a configuration can have."""
    match node:
        case None:
            return inspect.Parameter.empty
        case ast.Constant(value=None):
            return type(None)
        case ast.Name(id="Tensor"):
            return OfTorch
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Name(id=name):
            named, home = _definition(module, name)
            return _type(named.value, home) if isinstance(named, ast.Assign) else typing.Any
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_type(left, module), _type(right, module)]  # noqa: UP007 of what is known here alone
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            values = ast.literal_eval(values)
            return typing.Literal[values]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return typing.Optional[_type(inner, module)]  # noqa: UP045
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return typing.Union[tuple(_type(part, module) for part in parts)]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_type(inner, module)]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            return tuple[tuple(_type(part, module) for part in parts)]
    return typing.Any
