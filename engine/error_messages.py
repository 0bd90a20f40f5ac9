"""What a user reads when something is wrong: what, where, what is allowed, the next step, and no traceback.

A ValueError from this project's own code is a message to the user. Errors of the operating system and of Hydra's
command line are put into words here. Everything else is a defect of ours and keeps its traceback.
"""

import re
import traceback
from pathlib import Path

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from common.errors import DISK_ERRORS
from common.run_folder import PROJECT
from common.text import clean, did_you_mean

LONGEST = 80  # characters of an argument that an error repeats
LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # and their extras


def user_message(error: BaseException) -> str | None:
    """The message for the user, or None where the error is not one of his."""
    chain = [error]
    while (cause := _cause(chain[-1])) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, OverrideParseException):
            return _unparsable(link)
        if isinstance(link, MissingConfigException):
            return _no_such_choice(link)
        if isinstance(link, ConfigCompositionException):
            return _no_such_key(link)
        if isinstance(link, ValueError) and not isinstance(link, OmegaConfBaseException) and _is_ours(link):
            return str(link)
        if isinstance(link, RuntimeError) and (message := _out_of_memory(link) or _left_alone(link)):
            return message
        if isinstance(link, OSError) and link.errno in DISK_ERRORS:
            return f"{link.filename or link.strerror}: {DISK_ERRORS[link.errno]}"
    for link in chain:
        if isinstance(link, OmegaConfBaseException | HydraException) and not isinstance(link, InstantiationException):
            return str(link)
    return None


def _cause(error: BaseException) -> BaseException | None:
    """OmegaConf hides what a resolver of ours has raised."""
    return error.__context__ if isinstance(error, InterpolationResolutionError) else error.__cause__


def _out_of_memory(error: RuntimeError) -> str | None:
    text = str(error)
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "a worker process was killed, mostly for want of memory: the same command goes on; "
            "a smaller hydra.launcher.n_jobs needs less"
        )
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: a smaller datamodule.batch_size or model.image_size needs less ({text.splitlines()[0]})"
    return None


def _left_alone(error: RuntimeError) -> str | None:
    """Of torch.distributed's gloo and NCCL, which say it at length."""
    if re.search(r"Connection (closed|reset) by peer|ncclRemoteError|Broken pipe", str(error)):
        return "another process of this run has ended, and this one with it; go on: ckpt_path=RUN/checkpoints/last.ckpt"
    return None


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PROJECT in Path(frames[-1].filename).parents and "site-packages" not in frames[-1].filename


def _unparsable(error: OverrideParseException) -> str:
    key, _, value = (clean(part, LONGEST) for part in error.override.partition("="))
    return (
        f"cannot read the argument {clean(error.override, LONGEST)!r}. A value with spaces, commas, brackets, = or letters "
        f"beyond ASCII goes into two kinds of quotes: '{key}=\"{value}\"'"
    )


def _no_such_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group == "hydra/launcher" and name in LAUNCHERS:
        return f'{group}={name}: not installed; pip install -e ".[{LAUNCHERS[name]}]"'
    if not error.options:
        return str(error)
    return f"{group}={name}: no such choice; {did_you_mean(name, error.options)}"


def _no_such_key(error: ConfigCompositionException) -> str:
    text = str(error)
    match = re.search(r"Could not (?:override|append) '([^']+)'", text) or re.search(r"'([^']+)'", text)
    key = match.group(1).split("@")[0].lstrip("+~") if match else ""
    cause = error.__cause__
    parent = getattr(cause, "parent_node", None)
    if isinstance(cause, OmegaConfBaseException) and parent is not None and hasattr(parent, "keys"):
        *above, last = (cause.full_key or key).split(".")
        keys = [k for k in parent if not str(k).startswith("_")]
        place = f" in {'.'.join(above)}" if above else ""
        hint = f". To add a setting that the file does not list: +{key}=VALUE" if above else ""
        return f"{key}: no such key{place}; {did_you_mean(last, keys)}{hint}"
    if "No match in the defaults list" in text or "Could not override" in text:
        groups = [folder.name for folder in (PROJECT / "conf").iterdir() if folder.is_dir()]
        return f"{key}: no such group or key; {did_you_mean(key, [*groups, 'stages', 'seed', 'ckpt_path'])}"
    return text.splitlines()[0]
