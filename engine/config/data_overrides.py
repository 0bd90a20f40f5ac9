"""Complete the settings of the images on a command line: choose the data source, and make paths absolute."""

import os
import re
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from common.errors import UserError
from common.run_folder import RunFolder
from common.text import PLAIN, clean, quote_override
from common.untrusted.saved_config import read_saved_choices
from engine.hints import CONF

# Setting -> the source it belongs to; the first match decides, since a table has a root, too
SOURCES = {
    "datamodule.source.dataset": "torchvision", "datamodule.source.path": "huggingface", "datamodule.table": "csv",
    "datamodule.root": "image_folder",
}  # fmt: skip
PATHS = ("datamodule.root", "datamodule.table", "datamodule.splits")
RANGE = re.compile(r"(\+*datamodule\.range)=([^,\[\]{}()\s]+,[^,\[\]{}()\s]+)")  # two values of a sweep, to Hydra
GROUP = CONF / "datamodule"
# In an experiment's file: in its defaults, in lines or in brackets, or swept
CHOSEN = re.compile(r"^(?:\s*|[^#\n]*override\s+/)datamodule:[ \t]*([^\s#{}\]]*[^\s#{}\],])", re.MULTILINE)


def expand_home(argument: str) -> str:
    """Return KEY=VALUE with a leading ~ or ~user of the value replaced by the home folder, which shells do not do there."""
    key, _, value = argument.partition("=")
    if "~" not in value:
        return argument
    whole = value if value.startswith("~") and not re.search(r"[,\[\]{}]", value) else ""
    if whole and not PLAIN.fullmatch(whole[1:].lstrip("/") or "x"):  # blanks or letters that need quotes
        return quote_override(key, _of_home(whole))
    return f"{key}={re.sub(r'(^|(?<=[,[]))~[^/,]*(?=$|[/,])', lambda match: _of_home(match[0]), value)}"


def complete_data(arguments: list[str], further_conf: str | None = None) -> tuple[list[str], str]:
    """Return the overrides of train.py with data source and absolute paths, and a sentence if a source was chosen.

    Args:
        further_conf: folder of the user's own configuration files.

    Raises:
        UserError: a folder is given to a data source that has its own images, or a name is not UTF-8.
    """
    _check_utf8(arguments)
    arguments = [RANGE.sub(r"\1=[\2]", argument) if RANGE.fullmatch(argument) else argument for argument in arguments]
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
    except OverrideParseException:
        return arguments, ""  # Hydra reports it
    given = {override.key_or_group: override for override in overrides}
    completed = [_with_whole_path(each, text) for each, text in zip(overrides, arguments, strict=True)]
    _check_utf8(completed)  # checked now, since absolute paths contain the current folder
    setting = next((key for key in SOURCES if key in given and not given[key].is_delete()), None)
    if setting is None:
        return completed, ""
    is_chosen, chosen = _chosen_source(given, further_conf)
    if is_chosen:
        _check_root(given, chosen)
        return completed, ""
    source = SOURCES[setting]
    completed = [text.lstrip("+") if each.key_or_group in SOURCES else text
                 for each, text in zip(overrides, completed, strict=True)]  # fmt: skip
    return [*completed, f"datamodule={source}"], f"datamodule={source}, since {setting} is given and no datamodule"


def _check_utf8(arguments: list[str]) -> None:
    """Refuse names that a configuration or a record cannot hold."""
    for argument in arguments:
        if argument == argument.encode(errors="replace").decode():
            continue
        problem = "is not UTF-8; rename that folder or file, or give it a second name: ln -s OLD NEW"
        if "\ufffd" not in os.fsencode(argument).decode(errors="replace"):
            problem = f"is UTF-8, but Python reads names as {sys.getfilesystemencoding()} here; set PYTHONUTF8=1"
        raise UserError(f"{clean(argument, 200)}: a name in it {problem}")


def _chosen_source(given: dict[str, Override], further_conf: str | None) -> tuple[bool, str | None]:
    """Return whether the command line, a checkpoint or an experiment chooses a source, and its name if known."""
    if "datamodule" in given:
        return True, _text(given["datamodule"])
    checkpoint = _text(given.get("ckpt_path"))
    if checkpoint and (run := RunFolder.of_checkpoint(Path(checkpoint))):
        return True, read_saved_choices(run).get("datamodule")
    if "experiment" in given and not given["experiment"].is_delete():
        name = _text(given["experiment"])
        if name and (file := experiment_file(name, further_conf)):
            chosen = CHOSEN.search(file.read_text(encoding="utf-8"))
            return chosen is not None, chosen and chosen[1]
    return False, None


def experiment_file(name: str, further_conf: str | None) -> Path | None:
    """Return the file of an experiment as Hydra finds it: that of conf/ comes first, and the name may end in .yaml."""
    folders = (CONF, *([Path(further_conf)] if further_conf else []))
    files = [folder / "experiment" / f"{name.removesuffix('.yaml')}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _check_root(given: dict[str, Override], source: str | None) -> None:
    """Refuse a folder for a source that would ignore it."""
    file = GROUP / f"{source}.yaml"
    if "datamodule.root" not in given or "datamodule.table" in given or not source or not file.is_file():
        return
    if not re.search(r"^root:", file.read_text(encoding="utf-8"), re.MULTILINE):
        line = given["datamodule.root"].input_line
        raise UserError(
            f"{line}: datamodule={source} brings its own images and takes no root; for your images: datamodule=image_folder "
            f"{line.lstrip('+')}"
        )


def _with_whole_path(override: Override, text: str) -> str:
    if override.key_or_group not in PATHS or override.is_delete():
        return text
    prefix, value = re.match(r"\+*", text)[0], override.value()
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = text.partition("=")[2]  # a folder may be called 2024
    if not isinstance(value, str) or not value or "${" in value:  # the folders of a sweep are named by it
        return text
    return prefix + quote_override(override.key_or_group, str(Path(_of_home(value)).absolute()))


def _of_home(path: str) -> str:
    """Return a path with ~ or ~user expanded; unchanged where there is no such user."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        return path


def _text(override: Override | None) -> str | None:
    """Return a plain value as text; None for a list or the values of a sweep."""
    is_plain = override is not None and not override.is_delete() and not override.is_sweep_override()
    return value if is_plain and isinstance(value := override.value(), str) else None
