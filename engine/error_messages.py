"""Turn an error into the message that a user reads: what, where, what is allowed, the next step, and no traceback.

Messages are those of UserError, of Hydra's command line and of the operating system. Everything else, also a
plain ValueError, is a defect of this project and keeps its traceback.
"""

import errno
import os
import re
import traceback
from difflib import get_close_matches
from glob import escape
from pathlib import Path

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigIndexError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
    ValidationError,
)

from common.errors import DISK_ERRORS, ELSEWHERE, UserError
from common.flags import config_dir
from common.targets import not_installed
from common.text import clean, did_you_mean, shell_quote
from engine.config.instantiate import OF_SEVERAL
from engine.config.trainer_flags import refusal
from engine.hints import CHOICES, CONF, NO_SETTINGS, keys_called, quoted, suggest, with_keys
from engine.state import STATE

LOST = "another process of this run has ended, so this one ended, too"
NO_PROCESS = (
    "the system starts no further process or thread for this command (ulimit -u, or the limit of a container); end other "
    "programs, raise the limit, or use a smaller datamodule.num_workers or hydra.launcher.n_jobs"
)
LONGEST = 80  # characters of an argument that an error repeats
# Commands without a run folder -> the setting that says where they write
PLACES = {"predict.py": "out=DIR", "export.py": "out=DIR", "report.py": "out=DIR", "demo.py": "format.cache=DIR"}
LAUNCHERS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # -> the extra that installs it

# Hydra's words on a wrong defaults list of a file, whose name it does not always know
OF_DEFAULTS = r"Invalid defaults list in '(\S+)'|In (\S+): Too many keys in default item|Unsupported type in defaults"


def user_message(error: BaseException) -> str | None:
    """Return the message for the user, or None where the error is a defect of this project."""
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
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, yaml.MarkedYAMLError) and link.problem_mark is not None:
            mark = link.problem_mark
            return f"{mark.name}: line {mark.line + 1}: not valid YAML: {link.problem or link.context}"
        # Python's limit for texts of numbers
        if isinstance(link, ValueError) and str(link).startswith("Exceeds the limit"):
            return "a whole number in this command or its files has thousands of digits; use a smaller one"
        if isinstance(link, ValueError) and str(link).startswith("Only one of --run, --multirun, --cfg"):
            return "-m, --cfg, --info and -sc exclude each other; use one of them (--cfg job shows the settings of one run)"
        if isinstance(link, TypeError | ValueError) and (message := _not_an_item(str(link))):
            return message
        if isinstance(link, ValueError) and (wrong := re.match(OF_DEFAULTS, str(link))):
            file = f"{wrong[1] or wrong[2]}.yaml" if wrong[1] or wrong[2] else "a file that is chosen here"
            return f"{file}: defaults must be a list with one choice in each item, as defaults: [override /model: resnet18]"
        if isinstance(link, RuntimeError) and (message := _of_process(link)):
            return message
        if isinstance(link, BlockingIOError) and _raised_in(link) in ("_launch", "_execute_child"):
            return NO_PROCESS
        # Python < 3.13
        if isinstance(link, RuntimeError) and (loop := re.match(r"Symlink loop from '(.*)'$", str(link))):
            return f"{loop[1]}: {DISK_ERRORS[errno.ELOOP]}".replace(ELSEWHERE, _elsewhere())
        if isinstance(link, OSError) and link.errno in DISK_ERRORS:
            name = link.filename2 or link.filename  # a file is written under another name, and then renamed
            file = f"{os.fsdecode(name)}: " if name else ""  # Python gives no name for a file that is already open
            return f"{file}{DISK_ERRORS[link.errno]}".replace(ELSEWHERE, _elsewhere())
        if isinstance(link, OSError) and link.errno == errno.ENAMETOOLONG:
            return f"{link.filename}: this name is too long for the file system; use a shorter path"
        if isinstance(link, FileNotFoundError) and _makes_a_folder(link):
            return f"{link.filename}: cannot be created; write elsewhere: {_elsewhere()}"
        if isinstance(link, FileExistsError) and _makes_a_folder(link) and not (path := Path(link.filename)).is_dir():
            what = "is a link to a folder that does not exist" if path.is_symlink() else "is a file, not a folder"
            return f"{path}: {what}; write elsewhere: {_elsewhere()}"
    for link in chain:
        if isinstance(link, ConfigAttributeError | ConfigKeyError | InterpolationKeyError):
            text = str(link).splitlines()[0]
            referred = re.search(r"'(\w+\..+)'", text)  # the key that is missing, rather than the key that refers to it
            if key := referred[1] if referred else link.full_key:
                group = key.split(".")[0]
                files = f"; compare your {group} with a file of conf/{group}" if (CONF / group).is_dir() else ""
                return f"{key}: {text}{files}"
        if isinstance(link, InterpolationToMissingValueError):
            key = str(link).splitlines()[0].rpartition(" ")[2]  # such as model.name, which names the run folder
            return f"{key} has no value; give it one: {key}=VALUE"
        if isinstance(link, InterpolationKeyError | UnsupportedInterpolationType):  # such as a path with ${x} in it
            text = str(link).splitlines()[0]
            return f"{text}; ${{...}} refers to another setting, as ${{seed}} does, and values cannot contain these characters"
        if isinstance(link, OmegaConfBaseException | HydraException) and not isinstance(link, InstantiationException):
            return str(link)
    return None


def _elsewhere() -> str:
    """Return the setting that says where this command writes."""
    return PLACES.get(_script(), ELSEWHERE)


def _makes_a_folder(error: FileNotFoundError | FileExistsError) -> bool:
    """Return whether creating a folder raised the error (as in /proc), rather than reading a file that should exist."""
    return _raised_in(error) in ("mkdir", "makedirs")


def _raised_in(error: BaseException) -> str:
    """Return the name of the function that raised an error."""
    return traceback.extract_tb(error.__traceback__)[-1].name


def _cause(error: BaseException) -> BaseException | None:
    """Return the cause of an error, also where OmegaConf hides an error of one of this project's resolvers."""
    return error.__context__ if isinstance(error, InterpolationResolutionError) else error.__cause__


def _of_process(error: RuntimeError) -> str | None:
    """Return the message for an error of a launcher, of another process of the run, or of the memory."""
    text = str(error)
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "a worker process was killed, usually for lack of memory; rerun the same command to resume; "
            "a smaller hydra.launcher.n_jobs needs less"
        )
    if text.startswith("DataLoader worker"):
        return (
            "a loader worker has ended early, usually for lack of memory; to resume: ckpt_path=RUN/checkpoints/last.ckpt; "
            f"a smaller datamodule.num_workers needs less ({text.strip()})"
        )
    if text == "can't start new thread":
        return NO_PROCESS
    if type(error).__name__ == "FailedJobError":  # raised by submitit
        settings = "hydra.launcher.gpus_per_node=null, .mem_gb, .cpus_per_task, .partition"
        return f"SLURM rejected the jobs: {' '.join(text.split())[-300:]}; these settings request resources: {settings}"
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: a smaller datamodule.batch_size or model.image_size needs less ({text.splitlines()[0]})"
    if re.search(r"Connection (closed|reset) by peer|ncclRemoteError|Broken pipe", text):
        return LOST  # torch.distributed's gloo and NCCL report it at length
    return None


def _unparsable(error: OverrideParseException) -> str:
    text = error.override or ""
    if "=" not in text:
        command = clean(with_keys(_script(), _arguments()), 3 * LONGEST)
        return f"{clean(text, LONGEST)}: an argument is KEY=VALUE: {command} (--help lists groups and keys)"
    key, _, value = text.partition("=")
    if key != key.rstrip() or value.startswith("="):
        key, value = key.strip(), value.lstrip("= ")
        meant = f"{key}={value}" if re.fullmatch(r"[\w./-]+", value) else quoted(key, value)
        return f"{clean(text, LONGEST)}: one = without spaces: {clean(meant, LONGEST)}"
    if " " in key:
        return f"{clean(text, LONGEST)}: a key has no spaces: {clean(key.replace(' ', '.'), LONGEST)}=VALUE"
    example = quoted(key, value) if len(text) <= LONGEST else f"'{clean(key, LONGEST)}=\"...\"'"
    return (
        f"cannot read the argument {clean(text, LONGEST)!r}. A value with spaces, commas, brackets, = or letters "
        f"beyond ASCII needs two kinds of quotes: {clean(example)}"
    )


def _several_values(text: str) -> str | None:
    """Return the message for an argument that only a sweep takes."""
    if not (match := re.match(r"(?:Ambiguous value for argument|Sweep parameters?) '(.*)'", text)):
        return None
    argument = clean(match[1], LONGEST)
    key, _, value = argument.partition("=")
    instead = []
    if re.fullmatch(r"-?0,\d+", value):
        instead += [f"a number has a point: {key}={value.replace(',', '.')}"]
    if _script() == "train.py":
        instead += [f"they make a sweep: add -m: python train.py -m {shell_quote(argument)}"]
    is_group = (CONF / key.lstrip("+")).is_dir()
    if "(" not in value and (not is_group or key in OF_SEVERAL):
        instead += [f"as a list: {shell_quote(f'{key}=[{value}]')}"]
    if "(" not in value and not is_group:
        instead += [f"as one text: {quoted(key, value)}"]
    return "; ".join([f"{argument}: several values", *(instead or ["give one"])])


def _script() -> str:
    return STATE.command[1] if len(STATE.command) > 1 else "train.py"


def _arguments() -> list[str]:
    return STATE.command[2:]


def _value_of(key: str) -> str | None:
    """Return the value that was typed for a key."""
    typed = (argument.lstrip("+~").partition("=") for argument in _arguments())
    return next((clean(value, LONGEST) for name, equals, value in typed if name.split("@")[0] == key and equals), None)


def _no_such_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group == "hydra/launcher" and name in LAUNCHERS:
        return str(not_installed("its package", f"{group}={name}", LAUNCHERS[name]))
    typed = next((a for a in _arguments() if a.startswith("datamodule=") and ("/" in a or "\\" in a or "~" in a)), None)
    if typed is not None and group.startswith("datamodule"):
        folder = typed.partition("=")[2]
        return (
            f"{typed}: no such choice; a folder of images: datamodule=image_folder {quoted('datamodule.root', folder)}"
        )
    top, _, above = group.partition("/")
    if above and top != "hydra" and (CONF / top).is_dir():
        if "/" not in (_value_of(top) or "/"):
            return f"{group}/{name}: no such file; the defaults of {top}={_value_of(top)} name it"
        # The value is a path
        stem = name.removesuffix(".yaml")
        return (
            f"{top}: files are chosen by name, not by path: put {stem}.yaml into DIR/{top}, and use --config-dir=DIR "
            f"{top}={stem}"
        )
    # Hydra lists no options where one of several choices is unknown
    folders = [CONF, *([Path(own)] if (own := config_dir(_arguments())) else [])]
    options = error.options or sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    if not group or not options:
        return str(error)
    message = f"{group}={name}: no such choice; {did_you_mean(CHOICES.get(name, name), options)}"
    misplaced = [path for part in ("", "*/") for path in Path(own).glob(f"{part}{escape(name)}.y*ml")] if own else []
    if group == "model" and not own and re.fullmatch(r"\w+", name):
        message += f". If it is one of timm: model=timm model.name={name}"
    if misplaced:
        message += f"; {misplaced[0]} is not read: its place is DIR/{group}/{name}.yaml, with --config-dir=DIR"
    return message


def _not_an_item(text: str) -> str | None:
    """Return the message for an argument with a name where a list needs the number of an item: stages.fit=true."""
    wrong = re.match(r"(?:Index|invalid literal for int\(\) with base 10:) '(\w+)'", text)
    for typed in _arguments() if wrong else ():
        place, found, _ = f"{typed.lstrip('+~').partition('=')[0]}.".partition(f".{wrong[1]}.")
        if found:
            return f"{clean(typed, LONGEST)}: {wrong[1]} is not the number of an item of {clean(place, LONGEST)}, from 0 on"
    return None


def _of_another_kind(text: str, cause: ConfigTypeError) -> str | None:
    """Return the message for a list in the place of a group of settings, or the reverse."""
    key, typed = cause.full_key, clean(text.removeprefix("Error merging override "), LONGEST)
    if isinstance(cause.parent_node, ListConfig):
        return f"{typed}: {key} takes a list or a single value: {key}=[A,B]"
    if isinstance(cause.parent_node, DictConfig):
        keys = [name for name in cause.parent_node if not str(name).startswith("_")]
        return f"{typed}: {key} is a group of settings; {key}.{keys[0] if keys else 'KEY'}=VALUE sets one"
    return None


def _no_such_key(error: ConfigCompositionException) -> str:
    text = str(error)
    if message := _several_values(text):
        return message
    if isinstance(error.__cause__, ValidationError):  # of Hydra's own settings, which have a type
        return f"{clean(text.removeprefix('Error merging override '), LONGEST)}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error.__cause__, ConfigTypeError) and (message := _of_another_kind(text, error.__cause__)):
        return message
    if isinstance(error.__cause__, ConfigIndexError):
        typed = clean(text.removeprefix("Error merging override "), LONGEST)
        place, _, item = error.__cause__.full_key.rstrip("]").rpartition("[")
        return (
            f"{typed}: {place} has no item {item}, since they count from 0; add one in a file, or give the whole list"
        )
    if deleted := re.match(r"Could not delete from config\. '(.*)' does not exist", text):
        return f"~{deleted[1]}: there is no such key, or it has no value already; leave this out"
    if exists := re.search(r"An item is already at '(.*)'[^']*remove \+ prefix: '(.*)'", text):
        return f"+{exists[1]}: this key exists; set it without +: {clean(exists[2], LONGEST)}"
    match = re.search(r"Could not (?:override|append) '([^']+)'", text) or re.search(r"'([^']+)'", text)
    key = match.group(1).split("@")[0].lstrip("+~") if match else ""
    above, _, last = key.rpartition(".")
    if above in ("", "datamodule", "model") and (advice := NO_SETTINGS.get(_script(), {}).get(last)):
        return f"{key}: {advice}"
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir()]
    cause = error.__cause__
    # Whether it is a key of search.py itself, rather than of its trials, which have that group
    is_own = "." not in (getattr(cause, "full_key", None) or key)
    if _script() == "search.py" and is_own and key.split(".")[0] in {*groups} - {"hydra", "format", "candidates"}:
        typed = f"{key}={_value_of(key) or 'VALUE'}"
        if _value_of(key) is None:  # the command line was completed by a group, such as datamodule=image_folder
            typed = next((clean(text, LONGEST) for text in _arguments() if text.startswith(f"{key}.")), typed)
        return f"{key}: is a setting of the trials; pass it to them: 'base_overrides=\"{typed}\"'"
    if isinstance(cause, OmegaConfBaseException) and hasattr(cause.parent_node, "keys"):
        return _not_in_group(key, cause)
    if local := re.match(r"In '(\w+)/(.+)': Could not override '\w+@", text):
        return f"{local[1]}={local[2]}: its file must begin with the line # @package _global_"
    if a_list := re.match(r"In '(\w+/.+)': ConfigTypeError raised", text):
        return f"{a_list[1]}.yaml: holds a list where settings are needed, one KEY: VALUE in each line"
    if twice := re.match(r"Multiple values for (\S+)\. To override a value use 'override \S+: (.+)'", text):
        if f"+{twice[1]}={twice[2]}" in _arguments():
            return f"+{twice[1]}: this group exists; choose its file without +: {twice[1]}={twice[2]}"
        return f"{twice[1]}: a file chooses {twice[2]} without overriding the default; write - override /{twice[1]}: {twice[2]}"
    if "No match in the defaults list" in text or "Could not override" in text:
        if key in groups:
            return f"{key}: is not a setting of {_script()}; --help lists its settings"
        return f"{key}: no such group or key; {did_you_mean(key, [*groups, 'stages', 'seed', 'ckpt_path'])}"
    return text.splitlines()[0]


def _not_in_group(key: str, cause: OmegaConfBaseException) -> str:
    """Return the message for a key that its group, or the whole configuration, does not have."""
    *above, last = (cause.full_key or key).split(".")
    if above == ["trainer"] and (reason := refusal(last)):
        return f"{key}: {reason}"
    keys = [name for name in cause.parent_node if not str(name).startswith("_")]
    elsewhere = keys_called(last if above else key, cause.parent_node._get_root())  # key may be Trainer.max_epochs
    if not above:
        meant = f"{suggest(elsewhere, _value_of(key))} --help lists groups and keys" if elsewhere else ""
        return f"{key}: no such key; {meant or did_you_mean(last, keys)}"
    elsewhere = [each for each in elsewhere if "." in each]  # model.head.name does not mean name
    meant = suggest(elsewhere, _value_of(key)) if elsewhere else ""
    place, hint = ".".join(above), f". To add a setting that the file does not list: +{key}=VALUE"
    if not keys:
        return f"{key}: no such key in {place}, which has none{f'; {meant}' if meant else hint}"
    if get_close_matches(last, map(str, keys), 1, 0.9):
        meant = ""  # candidates.image_size is candidates.image_sizes rather than model.image_size
    return f"{key}: no such key in {place}; {did_you_mean(last, keys, meant)}{hint}"
