"""An error that a class of the user's own has raised, in one line that names the setting, the file and the class."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.text import clean

# Top packages whose classes a configuration names without them being the user's own
OURS = {"callbacks", "common", "datamodules", "engine", "evaluation", "inference", "lightning_modules", "reports"}
LIBRARIES = {"lightning", "pytorch_lightning", "timm", "torch", "torchmetrics", "torchvision"}
LONGEST = 300  # characters of its message
SHOW_TRACEBACK = "HYDRA_FULL_ERROR=1 shows the traceback"


def own_class_error(error: BaseException, config: DictConfig, next_step: str = "") -> UserError | None:
    """Return the error for the user where a class that the configuration names raised it; None where it is another's.

    The innermost frame of the traceback decides that is of such a class or of this project: what a library raises belongs to
    who called it.

    Args:
        config: of the run, as composed or as checked.
        next_step: shown after the message.
    """
    if isinstance(error, UserError):
        return None
    named = list(_own_names(OmegaConf.to_container(config, resolve=False)))
    packages = {name.split(".")[0] for _, name in named}
    cause = _innermost(error)
    for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.split(".")[0] in OURS:
            return None
        if module.split(".")[0] in packages:
            near = [(key, name) for key, name in named if name.startswith(f"{module}.")]
            key, name = (near or [each for each in named if each[1].split(".")[0] == module.split(".")[0]])[0]
            text = clean(" ".join(f"{type(cause).__name__}: {cause}".split()), LONGEST)
            where = f"{Path(frame.f_code.co_filename).name}, line {line}"
            made = UserError(f"{key}={name}{_file_of(key)}: {text} ({where}). {SHOW_TRACEBACK}{next_step}")
            made.__cause__ = error
            return made
    return None


def _own_names(node, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield key and name of each class of the user's own in a configuration, networks and heads included."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        here = (*place, str(name))
        is_name = name == "_target_" or here in (("model", "network"), ("model", "head", "name"))
        if is_name and isinstance(value, str) and "." in value and value.split(".")[0] not in OURS | LIBRARIES:
            yield ".".join(here).removesuffix("._target_"), value
        yield from _own_names(value, here)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _file_of(key: str) -> str:
    """Return ` in DIR/GROUP/NAME.yaml`, the file that the group of a key was taken from; nothing where it is not known."""
    if not HydraConfig.initialized():
        return ""
    runtime, group = HydraConfig.get().runtime, key.split(".")[0]
    choice = runtime.choices.get(group)
    files = [
        Path(source.path) / group / f"{choice}.yaml" for source in runtime.config_sources if source.schema == "file"
    ]
    return next((f" in {file}" for file in files if file.is_file()), "")
