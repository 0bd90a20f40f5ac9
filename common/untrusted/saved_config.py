"""The configuration that a run left, read as a stranger's: plain YAML that names no code and reaches nowhere else."""

import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)

CONFIG = ".hydra/config.yaml"
CHOICES = ".hydra/hydra.yaml"
LARGEST = 64 * 2**10  # bytes; a run's has 2 to 4 KiB. OmegaConf takes 1.2 s for 64 KiB, and half a minute for 1 MiB
DEEPEST = 20  # collections within one another
LONGEST = 100_000  # characters, once every interpolation is put in
GROUPS = ("model", "datamodule", "trainer", "callbacks")  # that every run has
MAY_BE_EMPTY = ("augmentation", "loss", "decision", "optimizer", "scheduler", "logger")
OF_EACH_COMMAND = {"stages", "ckpt_path", "seed", "experiment", "hydra"}  # that no saved choice may stand in for
REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")
# Of the resolvers only those that compute; oc.env, run_folder and the like tell of this machine or write on it
ALLOWED = re.compile(rf"{REFERENCE.pattern}|\$\{{(?:project|rounded_quotient):")
# Settings of Lightning's own classes that say where to write, and what sends elsewhere
WRITES = {
    "dirpath", "filename", "save_dir", "root_dir", "dir", "default_root_dir", "exclude_batches_path", "nvme_path",
    "model_registry", "profiler_kwargs",
}  # fmt: skip
LOGGERS = "lightning.pytorch.loggers"


def read_saved_config(folder: Path, given: Collection[str] = ()) -> DictConfig:
    """The configuration that a run was started with.

    Args:
        given: keys that the command line gives anew; what the file says of them is left out where it could not be taken.

    Raises:
        ValueError: cut off, too large, of another shape, or something in it that a run's own does not need; with the key.
    """
    path = folder / CONFIG
    config = read_plain_yaml(path)
    for key, reason in _odd(OmegaConf.to_container(config, resolve=False)):
        if not any(f"{key}.".startswith(f"{name}.") for name in given):
            name = key.split(".")[0] if key.split(".")[0] in MAY_BE_EMPTY else key
            raise ValueError(f"{path}: {key} {reason}; give it anew, {name}=..., or take the checkpoint of another run")
        OmegaConf.update(config, key, None)
    return config


def read_saved_choices(folder: Path) -> dict[str, str]:
    """The file that a run took of each group.

    Raises:
        ValueError: a file that is none, or a choice that is no plain name.
    """
    path = folder / CHOICES
    if not path.is_file():
        log.warning("%s is not there, so that it is not known which file the run took of each group", path)
        return {}
    choices = OmegaConf.to_container(read_plain_yaml(path), resolve=False)
    for key in ("hydra", "runtime", "choices"):
        choices = choices.get(key) if isinstance(choices, dict) else None
    if not isinstance(choices, dict):
        raise ValueError(f"{path}: hydra.runtime.choices is missing; take the checkpoint of another run")
    found = {}
    for group, name in choices.items():
        if not str(group).isidentifier() or group in OF_EACH_COMMAND or not isinstance(name, str):
            continue
        if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):  # Hydra would look for it outside of conf/
            raise ValueError(f"{path}: the choice {group}={name[:60]!r} is no name of a file in conf/{group}")
        found[group] = name
    return found


def read_plain_yaml(path: Path) -> DictConfig:
    """A YAML file of a run: small, without anchors and tags, a mapping.

    Raises:
        ValueError: anything else.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST // 2**10} KiB, which no run writes")
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: cannot be taken up ({reason}); take the checkpoint of another run") from error
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path}: cannot be taken up (it is no mapping); take the checkpoint of another run")
    return config


def _check_events(text: str) -> None:
    """Anchors make billions of lines out of ten, tags make objects: a run's YAML has neither."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"line {event.start_mark.line + 1}: an anchor, which no run writes")
        if getattr(event, "tag", None):
            raise ValueError(f"line {event.start_mark.line + 1}: the tag {event.tag[:60]}, which no run writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"line {event.start_mark.line + 1}: nested deeper than {DEEPEST}")


def _odd(config: dict) -> Iterator[tuple[str, str]]:
    """Each key that cannot be taken up, and why."""
    for key in (*GROUPS, *MAY_BE_EMPTY):
        if not isinstance(config.get(key), dict) and (key in GROUPS or config.get(key)):
            yield key, f"is {str(config.get(key))[:60]!r} and not a mapping, which no run writes"
            return
    if type(config.get("seed")) is not int:
        yield "seed", f"is {str(config.get('seed'))[:60]!r} and not a whole number"
    lengths: dict[tuple, int] = {}
    for place, name, value in _entries(config):
        key = ".".join(map(str, place))
        if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
            yield key[:100], "is no plain name"
        elif isinstance(value, str) and "${" in value:
            if value.count("${") != len(ALLOWED.findall(value)):
                yield key, f"is {value[:100]!r}, an interpolation that reaches outside of the configuration"
            elif _length(place, value, config, lengths) > LONGEST:
                yield key, "grows without end when its interpolations are put in"
        elif value is not None and (name in WRITES or (name == "_target_" and str(value).startswith(LOGGERS))):
            yield key, f"is {str(value)[:100]!r}, which could write outside of the run's folder"


def _entries(node: dict | list, place: tuple = ()) -> Iterator[tuple[tuple, str, object]]:
    """Place, name and value of everything in a configuration, to any depth; "" is a name that is no text."""
    for name, value in _items(node):
        yield (*place, name), name if isinstance(name, str) else "", value
        if isinstance(value, (dict, list)):
            yield from _entries(value, (*place, name))


def _items(node: dict | list) -> list[tuple]:
    return list(node.items()) if isinstance(node, dict) else [(str(index), item) for index, item in enumerate(node)]


def _length(place: tuple, value, config: dict, known: dict[tuple, int]) -> int:
    """Characters of a value with its interpolations put in, over LONGEST where they lead round in a circle."""
    if place in known:
        return known[place]
    known[place] = LONGEST + 1  # while it is looked at: who comes here again goes round
    if isinstance(value, (dict, list)):
        length = sum(_length((*place, name), item, config, known) for name, item in _items(value))
    else:
        length = len(str(value))
        for dots, name in REFERENCE.findall(value) if isinstance(value, str) else ():
            target = (*(place[: -len(dots)] if dots else ()), *name.split("."))
            length += _length(target, _at(config, target), config, known)
    known[place] = length
    return length


def _at(config: dict, place: tuple):
    """What is there, or None."""
    node = config
    for name in place:
        node = dict(_items(node)).get(name) if isinstance(node, (dict, list)) else None
    return node
