"""Make the parts of --help that list groups and settings, from the files in conf/; conf/hydra/help has the rest."""

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

WIDTH = 120  # columns
INDENT = "  "


def help_groups(conf: Path, verb: str, further: str | None = None) -> str:
    """List each group in the defaults of `verb` with its files, the default marked by *.

    Args:
        further: the user's own folder (--config-dir), laid out like `conf`.
    """
    defaults = {}
    for entry in yaml.safe_load((conf / f"{verb}.yaml").read_text(encoding="utf-8"))["defaults"]:
        defaults |= entry if isinstance(entry, dict) else {}
    choices = {name: _files(conf / name) for name in defaults if not name.startswith(("override ", "hydra/"))}
    for name in choices if further else ():
        choices[name] = sorted({*choices[name], *_files(Path(further) / name)})
    if "hydra/jobs" in defaults:  # the verb sweeps
        choices["hydra/launcher"] = [
            "basic",
            *sorted(_files(conf / "hydra" / "jobs") + _files(conf / "hydra" / "launcher")),
        ]
        defaults["hydra/launcher"] = "basic"
    column = max(map(len, choices)) + 2
    lines = []
    for group, files in choices.items():
        if files:
            names = ", ".join(f"{file}*" if file == defaults.get(group) else file for file in files)
            lines += textwrap.wrap(
                f"{group:{column}}{names}", WIDTH - len(INDENT), subsequent_indent=" " * column, break_on_hyphens=False
            )
    return _escape(lines)


def help_settings(conf: Path, verb: str) -> str:
    """List the settings of `verb` with values and comments, as they are in its file."""
    return _escape(_own_lines((conf / f"{verb}.yaml").read_text(encoding="utf-8")))


def _own_lines(text: str) -> Iterator[str]:
    """Yield the settings that a user may type: the lines between a file's defaults list and its hydra section."""
    inside = False
    for line in text.splitlines():
        if line.startswith("hydra:"):
            return
        inside = inside or not line.strip()
        if inside and line.strip() and not line.endswith("# set by the launcher"):
            yield line


def _files(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _escape(lines: Iterable[str]) -> str:
    """Join lines, escaped for string.Template, with which Hydra formats a help text."""
    return "\n".join(INDENT + line for line in lines).replace("$", "$$")
