"""Read the configuration of a run folder as untrusted: plain YAML that names only allowed classes and no other places."""

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.text import OWN_KEYS, names_own_code
from common.untrusted.description import LARGEST_IMAGE

log = logging.getLogger(__name__)

# libyaml is twenty times as fast; PyYAML may be built without it
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LARGEST = 64 * 2**10  # bytes; a run's has 2 to 4 KiB. OmegaConf takes 1.2 s for 64 KiB, and half a minute for 1 MiB
DEEPEST = 20  # nested collections
LONGEST = 100_000  # characters, once every interpolation is resolved
GROUPS = ("model", "datamodule", "trainer", "callbacks")  # groups that every run has
MAY_BE_EMPTY = ("augmentation", "batch_transform", "loss", "decision", "metrics", "optimizer", "scheduler", "logger")
GROUP_OF_SEVERAL = re.compile(r"(\w+)=\[\s*(\w[\w-]*(?:\s*,\s*\w[\w-]*)*)\s*\]", re.ASCII)  # logger=[tensorboard,csv]
OF_EACH_COMMAND = {"stages", "ckpt_path", "seed", "experiment", "hydra"}  # no saved choice may replace these
REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")
# Only resolvers that compute; oc.env, new_run_dir and the like reveal something about this machine or write to it
ALLOWED = re.compile(rf"{REFERENCE.pattern}|\$\{{(?:project|rounded_quotient):")
# Settings of Lightning's classes that name a place to write to or an address to send to
WRITES = {
    "dirpath", "filename", "save_dir", "root_dir", "dir", "default_root_dir", "exclude_batches_path", "nvme_path",
    "model_registry", "profiler_kwargs",
}  # fmt: skip
# Name prefix of a class that a saved configuration may name -> module prefix in which it must be defined
ALLOWED_TARGETS = {
    "callbacks": "callbacks",
    "datamodules": "datamodules",
    "evaluation.decision": "evaluation.decision",
    "lightning_modules": "lightning_modules",
    "torch.nn": "torch.nn.modules.loss",
    "torch.optim": "torch.optim",
    "torchvision.transforms.v2": "torchvision.transforms.v2",
    "lightning.Trainer": "lightning.pytorch.trainer",
    "lightning.pytorch.callbacks": "lightning.pytorch.callbacks",
    "lightning.pytorch.profilers": "lightning.pytorch.profilers",
    "lightning.pytorch.strategies": "lightning.pytorch.strategies",
}
TRANSFORMS = ("augmentation", "batch_transform")  # their sizes take memory
OWN_NAMES = {tuple(key.split(".")) for key in OWN_KEYS}  # places at which a user's own class may be named
FACTORIES = ("lightning_modules.losses", "lightning_modules.optim")  # modules whose functions may be named too


def read_saved_config(run: RunFolder, given: Collection[str], composed: DictConfig) -> DictConfig:
    """Read the configuration that a run started with.

    Args:
        given: keys that the command line sets again; a value in the file that would be refused is set to null for these.
        composed: the user's own configuration with the run's choices, which is trusted: a class that is not in
            ALLOWED_TARGETS, or a place to write to, is accepted if `composed` has the same value at its key.

    Raises:
        UserError: the file is cut off, too large, malformed, or has something that no run needs; names file and key.
    """
    config = _read(run, given)
    _refuse(run, _find_other_loggers(config, composed), config, given)
    values, trusted = (OmegaConf.to_container(each, resolve=False) for each in (config, composed))
    _refuse(run, _find_untrusted(values, trusted), config, given)
    return config


def untrusted_keys(config: DictConfig) -> list[str]:
    """Return the keys at which `read_saved_config` accepts the value only from the command line or the user's own files."""
    return [key for key, _ in _find_untrusted(OmegaConf.to_container(config, resolve=False), {})]


def read_saved_name(run: RunFolder, given: Collection[str]) -> str:
    """Read `model.name` of a run; "run" if there is none. Errors as of `read_saved_config`."""
    return str(OmegaConf.select(_read(run, given), "model.name") or "run")


def read_saved_choices(run: RunFolder) -> dict[str, str]:
    """Read which file of each group a run used, or which files: "[tensorboard,csv]".

    Raises:
        UserError: the file is not YAML, or a choice is not a plain name.
    """
    path = run.choices
    if not path.is_file():
        log.warning("%s is missing, so it is unknown which file of each group the run used", path)
        return {}
    hydra = _read_hydra(run)
    choices = _at(hydra, ("hydra", "runtime", "choices"))
    if not isinstance(choices, dict):
        raise UserError(f"{path}: hydra.runtime.choices is missing; use the checkpoint of another run")
    found = choices_of_several(_find_overrides(hydra))
    for group, name in choices.items():
        if not str(group).isidentifier() or group in OF_EACH_COMMAND or not isinstance(name, str):
            continue
        if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):  # Hydra would look for it outside of conf/
            raise UserError(f"{path}: the choice {group}={name[:60]!r} is not the name of a file in conf/{group}")
        found[group] = name
    # A list that an experiment's file has chosen is not in Hydra's own lists
    if "logger" not in found and run.config.is_file():
        loggers = _read_plain_yaml(run.config).get("logger")  # each file is named after its logger
        names = [str(name) for name in loggers] if isinstance(loggers, DictConfig) else []
        if names and all(re.fullmatch(r"\w[\w-]*", name, re.ASCII) for name in names):
            found["logger"] = f"[{','.join(names)}]"
    return found


def read_saved_overrides(run: RunFolder) -> list[str]:
    """Read the settings that were typed when a run began; none if it left no list of them.

    Raises:
        UserError: the file is not YAML.
    """
    if not run.choices.is_file():
        return []
    return _find_overrides(_read_hydra(run))


def _find_overrides(hydra: dict) -> list[str]:
    found = _at(hydra, ("hydra", "overrides", "task"))
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def read_typed(record: RunRecord) -> list[str]:
    """Return the settings that were typed for a run: those of its first command, then those of its last; errors as above."""
    return [*read_saved_overrides(record.folder), *record.run.overrides]


def choices_of_several(overrides: Collection[str]) -> dict[str, str]:
    """Return the groups for which overrides choose several files, which Hydra's own list of choices does not have."""
    matches = map(GROUP_OF_SEVERAL.fullmatch, overrides)
    found = {match[1]: f"[{re.sub(r'[^A-Za-z0-9_,-]', '', match[2])}]" for match in matches if match}
    return {group: names for group, names in found.items() if group in (*GROUPS, *MAY_BE_EMPTY)}


def is_allowed_target(name: object) -> bool:
    """Return whether a `_target_` is a class of ALLOWED_TARGETS or a function of FACTORIES; import nothing else.

    Names that one of these modules has imported from elsewhere are not allowed.
    """
    place = next((p for p in ALLOWED_TARGETS if f"{name}.".startswith(f"{p}.")), None)
    if place is None or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", name, re.ASCII):
        return False
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        return False
    factory = inspect.isfunction(found) and found.__module__ in FACTORIES
    defined_in = f"{getattr(found, '__module__', '')}."
    return (inspect.isclass(found) or factory) and defined_in.startswith(f"{ALLOWED_TARGETS[place]}.")


def _read(run: RunFolder, given: Collection[str]) -> DictConfig:
    """Read .hydra/config.yaml and check everything except the classes and places that it names."""
    config = _read_plain_yaml(run.config)
    _refuse(run, _find_malformed(OmegaConf.to_container(config, resolve=False)), config, given)
    return config


def _refuse(run: RunFolder, problems: Iterator[tuple[str, str]], config: DictConfig, given: Collection[str]) -> None:
    """Raise UserError for the first problem; in place, set problems whose keys are given again to null."""
    for key, reason in problems:
        if not any(f"{key}.".startswith(f"{name}.") for name in given):
            group = key.split(".")[0]
            name = group if group in MAY_BE_EMPTY and (group != "logger" or key.count(".") == 1) else key
            raise UserError(
                f"{run.config}: {key} {reason}; set it again, {name}=..., or use the checkpoint of another run"
            )
        OmegaConf.update(config, key, None)


def _read_hydra(run: RunFolder) -> dict:
    """Read .hydra/hydra.yaml like `_read_plain_yaml`, but without the time that OmegaConf's nodes take."""
    return _read_plain_yaml(run.choices, lambda text: SafeLoader(text).get_single_data())


def _read_plain_yaml(path: Path, parse: Callable[[str], object] = OmegaConf.create) -> DictConfig | dict:
    """Read a YAML file of a run; raise UserError unless it is a small mapping without anchors and tags."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"more than {LARGEST // 2**10} KiB, which no run writes")
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        config = parse(text)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason}); use the checkpoint of another run") from error
    if not isinstance(config, DictConfig | dict):
        raise UserError(f"{path}: cannot be read (it is not a mapping); use the checkpoint of another run")
    return config


def _check_events(text: str) -> None:
    """Refuse anchors, which can expand ten lines to billions, and tags, which make objects: a run's YAML has neither."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if getattr(event, "anchor", None):  # of what is named, or of an alias
            raise UserError(f"line {event.start_mark.line + 1}: an anchor, which no run writes")
        if getattr(event, "tag", None):
            raise UserError(f"line {event.start_mark.line + 1}: the tag {event.tag[:60]}, which no run writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"line {event.start_mark.line + 1}: nested deeper than {DEEPEST}")


def _find_malformed(config: dict) -> Iterator[tuple[str, str]]:
    """Yield each key that a run's configuration cannot have or whose interpolation reaches outside of it, and why."""
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
            yield key[:100], "is not a plain name"
        elif isinstance(value, str) and "${" in value:
            if value.count("${") != len(ALLOWED.findall(value)):
                yield key, f"is {value[:100]!r}, an interpolation that reaches outside of the configuration"
            elif _resolved_length(place, value, config, lengths) > LONGEST:
                yield key, "grows without end when its interpolations are resolved"


def _find_other_loggers(config: DictConfig, composed: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield each logger, or setting of a logger, that differs from the user's own configuration, and why.

    They name addresses, accounts and folders that a run sends and writes to, so none is taken from a run's folder.
    """
    theirs, own = (dict(_of_loggers(each)) for each in (config, composed))
    names = composed.get("logger") or {}
    for key in sorted({*theirs, *own}):
        name = key.split(".")[1]
        same = key in theirs and key in own and theirs[key] == own[key]
        if same and REFERENCE.search(str(own[key])):  # to another setting, which may differ
            same = OmegaConf.select(config, key) == OmegaConf.select(composed, key)
        if not same:
            yield (
                key if name in names else f"logger.{name}",
                f"is {str(theirs.get(key))[:100]!r}, not as in your conf/, and could send or write elsewhere",
            )


def _of_loggers(config: DictConfig) -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of every leaf in the group logger."""
    node = OmegaConf.to_container(config.get("logger") or OmegaConf.create(), resolve=False)
    for place, _, value in _entries({"logger": node} if node else {}):
        if not isinstance(value, (dict, list)) or not value:
            yield ".".join(map(str, place)), value


def _find_untrusted(config: dict, trusted: dict) -> Iterator[tuple[str, str]]:
    """Yield each key that names a class or a place to write to that is not also in `trusted`, and why."""
    for place, name, value in _entries(config):
        key = ".".join(map(str, place))
        if place[0] == "logger":  # checked by _find_other_loggers
            continue
        if place[:2] == ("datamodule", "source") and name != "_target_":
            if not isinstance(value, dict) and value != _at(trusted, place):  # what it reads may also be fetched
                yield key, f"is {str(value)[:100]!r}, not as in your conf/, and could read or fetch elsewhere"
            continue
        if isinstance(value, str) and "${" not in value and _at(trusted, place) == value:
            continue
        if place[0] in TRANSFORMS and type(value) in (int, float) and abs(value) > LARGEST_IMAGE:
            yield key, f"is {value}, but at most {LARGEST_IMAGE:,} is allowed"
        on_the_way = any(place == own[: len(place)] for own in OWN_NAMES)
        if isinstance(value, str) and (names_own_code(key, value) or (on_the_way and "${" in value)):
            yield key, f"is {value[:100]!r}, a class that your conf/ does not name"
        elif name == "_target_" and not is_allowed_target(value):
            yield key, f"is {str(value)[:100]!r}, neither in your conf/ nor a class of {', '.join(ALLOWED_TARGETS)}"
        elif value is not None and name in WRITES:
            yield key, f"is {str(value)[:100]!r}, which could write outside of the run's folder"


def _entries(node: dict | list, place: tuple = ()) -> Iterator[tuple[tuple, str, object]]:
    """Yield place, name and value of everything in a configuration, at any depth; the name is "" if it is not a text."""
    for name, value in _items(node):
        yield (*place, name), name if isinstance(name, str) else "", value
        if isinstance(value, (dict, list)):
            yield from _entries(value, (*place, name))


def _items(node: dict | list) -> list[tuple]:
    return list(node.items()) if isinstance(node, dict) else [(str(index), item) for index, item in enumerate(node)]


def _resolved_length(place: tuple, value, config: dict, known: dict[tuple, int]) -> int:
    """Count the characters of a value once its interpolations are resolved; more than LONGEST if they form a cycle."""
    if place in known:
        return known[place]
    known[place] = LONGEST + 1  # while it is counted, so a cycle ends here
    if isinstance(value, (dict, list)):
        length = sum(_resolved_length((*place, name), item, config, known) for name, item in _items(value))
    else:
        length = len(str(value))
        for dots, name in REFERENCE.findall(value) if isinstance(value, str) else ():
            target = (*(place[: -len(dots)] if dots else ()), *name.split("."))
            length += _resolved_length(target, _at(config, target), config, known)
    known[place] = length
    return length


def _at(config: dict, place: tuple):
    """Return the value at a place, or None."""
    node = config
    for name in place:
        node = dict(_items(node)).get(name) if isinstance(node, (dict, list)) else None
    return node
