"""Separate Hydra's flags from overrides on a command line."""

import itertools
from collections.abc import Sequence

from common.errors import UserError

NETWORKS = "--networks"  # of train.py
CONFIG_DIR = ("-cd", "--config-dir")
FLAGS_WITH_VALUE = {
    *CONFIG_DIR, "-cp", "--config-path", "-cn", "--config-name", "-c", "--cfg", "-p", "--package", "--experimental-rerun",
}  # fmt: skip


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's flags with their values, and the overrides."""
    flags, overrides, waiting = [], [], iter(arguments)
    for argument in waiting:
        if argument.startswith("-"):
            flags.append(argument)
            if argument in FLAGS_WITH_VALUE:
                flags += itertools.islice(waiting, 1)
        else:
            overrides.append(argument)
    return flags, overrides


def config_dir(arguments: Sequence[str]) -> str | None:
    """Return the folder of --config-dir, which holds a user's own files for the groups; None without the flag."""
    flags, _ = split_flags(arguments)
    for flag, value in itertools.zip_longest(flags, flags[1:]):
        name, _, joined = flag.partition("=")
        if name in CONFIG_DIR:
            return joined or value
    return None


def own_folders(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that name folders of the user's own configuration files, each as one word (--flag=DIR)."""
    further = config_dir(arguments)
    search_path = [argument for argument in arguments if argument.startswith("hydra.searchpath=")]
    return [*([f"--config-dir={further}"] if further else []), *search_path]


def networks_asked_for(arguments: Sequence[str]) -> list[str] | None:
    """Return the names after --networks (an empty list means all backbones); None without the flag.

    Raises:
        UserError: there are other arguments.
    """
    flags = [argument for argument in arguments if argument.partition("=")[0] == NETWORKS]
    if not flags:
        return None
    names = [name for flag in flags for name in flag.partition("=")[2].split(",") if name]
    for argument in arguments:
        if argument in flags:
            continue
        if argument.startswith("-") or "=" in argument:
            raise UserError(f"{NETWORKS} {argument}: takes names of backbones only: {NETWORKS} mobilenet_v2")
        names.append(argument)
    return names
