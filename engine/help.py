"""What --help says of groups and settings: read from conf/, so that a new file shows by itself. The rest is conf/hydra/help."""

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

WIDTH = 120  # columns
INDENT = "  "


def help_groups(conf: Path, verb: str) -> str:
    """A line or more for each folder of `conf`: its name, and its files with a * at what `verb` takes by itself."""
    taken = {}
    for entry in yaml.safe_load((conf / f"{verb}.yaml").read_text(encoding="utf-8"))["defaults"]:
        taken |= entry if isinstance(entry, dict) else {}
    choices = {name: _files(conf / name) for name in taken if not name.startswith(("override ", "hydra/"))}
    choices |= {place.name: _files(place) for place in sorted(conf.iterdir()) if place.is_dir()}
    choices |= {"hydra/launcher": _files(conf / "hydra" / "jobs")}
    taken["hydra/launcher"] = taken.get("hydra/jobs")
    column = max(map(len, choices)) + 2
    lines = []
    for group, files in choices.items():
        if files:
            told = ", ".join(f"{file}*" if file == taken.get(group) else file for file in files)
            lines += textwrap.wrap(
                f"{group:{column}}{told}", WIDTH - len(INDENT), subsequent_indent=" " * column, break_on_hyphens=False
            )
    return _escaped(lines)


def help_settings(conf: Path, verb: str) -> str:
    """The settings of `verb` with their values and what is said beside them, as its file has them."""
    return _escaped(_own((conf / f"{verb}.yaml").read_text(encoding="utf-8")))


def _own(text: str) -> Iterator[str]:
    """The lines of a primary configuration between its defaults list and Hydra's own part."""
    inside = False
    for line in text.splitlines():
        if line.startswith("hydra:"):
            return
        inside = inside or not line.strip()
        if inside and line.strip():
            yield line


def _files(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _escaped(lines: Iterable[str]) -> str:
    """For string.Template, which Hydra puts a help text through."""
    return "\n".join(INDENT + line for line in lines).replace("$", "$$")
