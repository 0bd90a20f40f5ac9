"""Errors of classes that the configuration names, in one line: the setting, its file, the class and the place.

A user's own class may raise anything; Lightning's callbacks and loggers raise where their settings do not fit the run. This
project's own classes raise a UserError, or have a defect, which keeps its traceback.
"""

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.errors import DISK_ERRORS, UserError
from common.targets import raised_in
from common.text import OWN_KEYS, clean
from engine.config.instantiate import LIBRARIES, OF_SEVERAL, OURS, missing_package

LONGEST = 300  # characters of its message
CANDIDATES = ("candidates", "backbones")  # of smallest.py
SHOW_TRACEBACK = "HYDRA_FULL_ERROR=1 shows the traceback"


def component_error(error: BaseException, config: DictConfig, next_step: str = "") -> UserError | None:
    """Return a UserError for an error raised by a class that the configuration names; None for any other error.

    Args:
        config: the run's configuration, as composed or as checked.
        next_step: text to append to the message.
    """
    full_disk = isinstance(error, OSError) and error.errno in DISK_ERRORS
    if isinstance(error, UserError) or full_disk or type(error).__name__ in ("MemoryError", "OutOfMemoryError"):
        return None
    cause = _innermost(error)
    text = clean(" ".join(f"{type(cause).__name__}: {cause}".split()), LONGEST)
    if "closure hasn't been executed" in text:  # Lightning's words
        made = UserError(
            f"optimizer={config.optimizer._target_}: its step does not call the closure, which computes the gradients"
        )
    elif "view size is not compatible" in text and config.optimizer._target_ == "torch.optim.LBFGS":
        made = UserError(
            "optimizer=torch.optim.LBFGS: cannot flatten the gradients of convolutions, whose weights are in channels-last "
            "memory; use another optimizer, e.g. optimizer=adam"
        )
    elif "Expected more than 1 value per channel when training" in text:
        made = UserError(
            f"datamodule.batch_size={config.datamodule.batch_size}: batch norm cannot learn from a single image whose "
            f"maps have one position, as in this network at model.image_size={config.model.image_size}; use a larger batch "
            "or image"
        )
    elif found := _own_class(cause, config) or _called_wrongly(cause, config):
        key, name, where = found
        made = UserError(f"{key}={name}{_file_of(key)}: {text}{where}. {SHOW_TRACEBACK}{next_step}")
    elif found := _library_class(cause, config):
        made = UserError(f"{found}: {' '.join(str(cause).split())}{next_step}")
        if isinstance(cause, ImportError):
            made = missing_package(found, cause)
    else:
        return None
    made.__cause__ = error
    return made


def _own_class(cause: BaseException, config: DictConfig) -> tuple[str, str, str] | None:
    """Return key and name of the user's own class that raised an error, and file and line of the raising frame.

    The innermost frame that belongs to such a class or to this project decides: an error in a library belongs to its caller.
    """
    named = list(_own_names(OmegaConf.to_container(config, resolve=False)))
    packages = {name.split(".")[0] for _, name in named}
    module, where = raised_in(cause, packages | OURS) or ("", "")
    package = module.split(".")[0]
    if package not in packages:
        return None
    near = [each for each in named if each[1].startswith(f"{module}.")]
    key, name = (near or [each for each in named if each[1].split(".")[0] == package])[0]
    return key, name, f" ({where})"


def _called_wrongly(cause: BaseException, config: DictConfig) -> tuple[str, str, str] | None:
    """Return key, name and nothing of the user's own class whose method does not take what it is called with.

    Python raises this in the caller, so no frame is that of the class; the message begins with Class.method().
    """
    called = re.match(r"(\w+)\.\w+\(\) (?:takes|missing|got) ", str(cause)) if isinstance(cause, TypeError) else None
    named = _own_names(OmegaConf.to_container(config, resolve=False)) if called else ()
    return next(((key, name, "") for key, name in named if name.rpartition(".")[2] == called[1]), None)


def _own_names(node, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield key and name of each of the user's own classes in a configuration, including the parts of the network."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        here = (*place, str(name))
        is_name = name == "_target_" or here[0] == "register" or ".".join(here) in OWN_KEYS or here[:-1] == CANDIDATES
        if is_name and isinstance(value, str) and "." in value and value.split(".")[0] not in OURS | LIBRARIES:
            yield ".".join(here).removesuffix("._target_"), value
        yield from _own_names(value, here)


def _library_class(cause: BaseException, config: DictConfig) -> str | None:
    """Return the key of the library's callback or logger in whose method an error was raised."""
    nodes = {
        f"{group}.{name}": node for group in ("callbacks", "logger") for name, node in (config.get(group) or {}).items()
    }
    kinds = {}
    for key, node in nodes.items():
        module, _, name = str(node.get("_target_")).rpartition(".") if node else ("", "", "")
        if module.split(".")[0] not in OURS:
            kinds[getattr(sys.modules.get(module), name, None)] = key
    for frame in reversed([frame for frame, _ in traceback.walk_tb(cause.__traceback__)]):
        if (key := kinds.get(type(frame.f_locals.get("self")))) is not None:
            return key
    return None


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _file_of(key: str) -> str:
    """Return ` in DIR/GROUP/NAME.yaml`, the chosen file of a key's group; empty if unknown, or if the key was typed."""
    if not HydraConfig.initialized():
        return ""
    typed = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    if any("." in each and f"{key}._target_.".startswith(f"{each}.") for each in typed):
        return ""
    runtime, group = HydraConfig.get().runtime, key.split(".")[0]
    names = re.findall(r"[\w-]+", str(runtime.choices.get(group)))  # one file, or a list
    folders = [Path(source.path) / group for source in runtime.config_sources if source.schema == "file"]
    files = [file for folder in folders for name in names if (file := folder / f"{name}.yaml").is_file()]
    if group in OF_SEVERAL:  # several files, and typed settings
        files = [file for file in files if f"{key.split('.')[1]}:" in file.read_text(encoding="utf-8")]
    return f" in {files[0]}" if files else ""
