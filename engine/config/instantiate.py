"""Build objects from a validated configuration, and name the one that an error comes from."""

import contextlib
import math
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from common.errors import DISK_ERRORS, TrialPruned, UserError

# package -> the extra that has it
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow", "psutil": "device_stats", "timm": "timm"}
OURS = ("callbacks.", "datamodules.", "engine.", "evaluation.", "lightning_modules.")
LIBRARIES = ("torch.", "lightning.")  # whose errors are about the settings that they are given
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?|-?\binf\b|\bnan\b")


def instantiate(config: DictConfig, key: str, **arguments):
    """Build what a node of a configuration describes.

    Args:
        config: as `validate` returns it: resolved and checked.
        key: of the node.
        arguments: further ones of its constructor.

    Returns:
        The object; a function where the node has `_partial_`; None where it is empty.

    Raises:
        UserError: a setting that the constructor refuses, a package that it misses, or a `_target_` that Hydra refuses.
    """
    node = OmegaConf.select(config, key)
    if not node:
        return None
    try:
        return hydra.utils.instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:  # refused by Hydra's own list of what a configuration cannot call
            raise UserError(f"{key}: {' '.join(str(error).split())}") from error
        if isinstance(cause, UserError):
            raise cause from None  # not from `error`, whose cause it is
        if isinstance(cause, ImportError):
            raise missing_package(key, cause) from cause
        if str(node._target_).startswith(LIBRARIES) and is_about_settings(cause):
            raise setting_error(key, OmegaConf.to_container(node), cause) from cause
        raise


@contextlib.contextmanager
def component_errors(config: DictConfig, groups: Iterable[str] = ("callbacks", "logger")) -> Iterator[None]:
    """Name the node of a group in whose class an error is raised inside; what this project's own classes raise passes.

    Raises:
        UserError: names the key and the error.
    """
    try:
        yield
    except (UserError, TrialPruned):
        raise
    except Exception as error:
        found = _raised_in(error, {f"{group}.{name}": node for group in groups for name, node in config[group].items()})
        disk_is_full = isinstance(error, OSError) and error.errno in DISK_ERRORS
        if found is None or disk_is_full or type(error).__name__ in ("MemoryError", "OutOfMemoryError"):
            raise
        key, kind = found
        if isinstance(error, ImportError):
            raise missing_package(key, error) from error
        text = " ".join(str(error).split())
        if not kind.__module__.startswith(LIBRARIES):
            text = f"{kind.__name__} raised {type(error).__name__}: {text}; for the traceback: HYDRA_FULL_ERROR=1"
        raise UserError(f"{key}: {text}") from error


def _raised_in(error: Exception, nodes: Mapping[str, DictConfig]) -> tuple[str, type] | None:
    """Return key and class of the innermost object in the traceback whose class is that of a node and not of this project."""
    keys = {}
    for key, node in nodes.items():
        module, _, name = str(node._target_).rpartition(".") if node else ("", "", "")
        keys[getattr(sys.modules.get(module), name, None)] = key
    for frame in reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)]):
        kind = type(frame.f_locals.get("self"))
        if kind in keys and not f"{kind.__module__}.".startswith(OURS):
            return keys[kind], kind
    return None


def missing_package(key: str, error: ImportError) -> UserError:
    """Return the error of a class whose package is not installed, with the extra that has it."""
    text = " ".join(str(error).split())
    package = next((name for name in EXTRAS if re.search(rf"\b{name}\b", f"{error.name} {text}")), None)
    if package is None:
        return UserError(f"{key}: {text}")
    return UserError(f'{key}: needs the package {package}; pip install -e ".[{EXTRAS[package]}]"')


def is_about_settings(error: BaseException) -> bool:
    """Return whether an error of a library's constructor is about its arguments."""
    return isinstance(error, (ValueError, TypeError)) or type(error).__name__ == "MisconfigurationException"


def setting_error(key: str, settings: dict, error: Exception) -> UserError:
    """Return the error of a library with the key and value of the setting that its message names or repeats."""
    text = " ".join(str(error).split())
    numbers = {float(number) for number in NUMBER.findall(text)}
    values = {name: value for name, value in settings.items() if not name.startswith("_")}
    named = [name for name in values if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    repeated = [name for name, value in values.items() if _is_repeated(value, text, numbers)]
    found = next((names for names in ([n for n in named if n in repeated], named, repeated) if len(names) == 1), None)
    if found is None:
        return UserError(f"{key}: {text}")
    value = values[found[0]]
    allowed = (
        "; use 0 or more" if text.startswith("Invalid") and isinstance(value, (int, float)) and not value >= 0 else ""
    )
    return UserError(f"{key}.{found[0]}={value}: {text}{allowed}")


def _is_repeated(value, text: str, numbers: set[float]) -> bool:
    """Return whether a message repeats a setting's value, or one item of it."""
    if isinstance(value, list):
        return any(_is_repeated(item, text, numbers) for item in value)
    if isinstance(value, str):
        return value in text
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value in numbers or (math.isnan(value) and any(map(math.isnan, numbers)))
