"""Build objects from a validated configuration."""

import math
import re
from collections.abc import Iterator

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.targets import not_installed

# package -> the extra that installs it
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow", "psutil": "device_stats", "datasets": "hf", "webdataset": "streaming",
          "litdata": "streaming"}  # fmt: skip
# Top-level packages of classes in a configuration that are not the user's own: this project's, and those of libraries, whose
# errors are about their settings
OURS = {"callbacks", "common", "datamodules", "engine", "evaluation", "inference", "lightning_modules", "reports"}
LIBRARIES = {"lightning", "pytorch_lightning", "timm", "torch", "torchmetrics", "torchvision"}
OF_SEVERAL = ("callbacks", "logger", "metrics")  # groups that take several files; each file has a named node
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?|-?\binf\b|\bnan\b")


def instantiate(config: DictConfig, key: str, **arguments):
    """Build the object that a node of a configuration describes.

    Args:
        config: resolved and checked, as `validate` returns it.
        key: key of the node.
        arguments: further arguments for its constructor.

    Returns:
        The object; a function if the node has `_partial_`; None if it is empty.

    Raises:
        UserError: the constructor refuses a setting, a package is missing, or Hydra refuses the `_target_`.
    """
    node = OmegaConf.select(config, key)
    if not node:
        return None
    try:
        if not arguments:
            return hydra.utils.instantiate(node, _convert_="all")
        make = hydra.utils.instantiate(node, _convert_="all", _partial_=True)
        try:
            return make(**arguments)  # passed here, since Hydra would turn a dataclass argument into a dict
        except Exception as error:
            raise InstantiationException(str(error)) from error
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:  # on Hydra's list of what a configuration must not call
            raise UserError(f"{key}: {' '.join(str(error).split())}") from error
        if isinstance(cause, UserError):
            raise cause from None  # not `from error`: it is the cause of `error`
        name, settings = _failed_node(key, OmegaConf.to_container(node), error)
        if isinstance(cause, ImportError):
            raise missing_package(name, cause) from cause
        if str(settings.get("_target_")).split(".")[0] in LIBRARIES and is_about_settings(cause):
            raise setting_error(name, settings, cause) from cause
        raise


def _failed_node(key: str, settings: dict, error: InstantiationException) -> tuple[str, dict]:
    """Return key and settings of the node that Hydra could not build: this one, or one nested in it."""
    failed = re.search(r"full_key: (\S+)", str(error))  # for an item of a list, it lacks the brackets
    nodes = dict(_nodes(key, settings))
    found = [name for name in nodes if failed and re.sub(r"[][]", "", name) == re.sub(r"[][]", "", failed[1])]
    return (found[0], nodes[found[0]]) if found else (key, settings)


def _nodes(key: str, value) -> Iterator[tuple[str, dict]]:
    """Yield key and settings of every node in a configuration."""
    if isinstance(value, dict):
        yield key, value
        for name, item in value.items():
            yield from _nodes(f"{key}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(f"{key}[{index}]", item)


def missing_package(key: str, error: ImportError) -> UserError:
    """Return the error for a class whose package is not installed, with the extra that installs it."""
    text = " ".join(str(error).split())
    package = next((name for name in EXTRAS if re.search(rf"\b{name}\b", f"{error.name} {text}")), None)
    if package is None:
        return UserError(f"{key}: {text}")
    return not_installed(package, key, EXTRAS[package])


def is_about_settings(error: BaseException) -> bool:
    """Return whether an error of a library's constructor is about its arguments."""
    kinds = (ValueError, TypeError, ModuleNotFoundError)  # the last: a setting needs a package
    return isinstance(error, kinds) or type(error).__name__ == "MisconfigurationException"


def setting_error(key: str, settings: dict, error: Exception) -> UserError:
    """Return a library's error with the key and value of the setting that its message names or repeats."""
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
    """Return whether a message repeats a setting's value, or an item of it."""
    if isinstance(value, list):
        return any(_is_repeated(item, text, numbers) for item in value)
    if isinstance(value, str):
        return value in text
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value in numbers or (math.isnan(value) and any(map(math.isnan, numbers)))
