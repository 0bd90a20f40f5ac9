"""The basis of every page of this project: Jinja2 that escapes everything, and the style of page.css."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.text import clean

COMMON = Path(__file__).parent


def jinja_environment(*folders: Path, longest: int | None = None) -> Environment:
    """Return a Jinja2 environment for HTML with the templates of `folders` and common/; undefined names are errors.

    Args:
        longest: number of characters after which a text is cut; None: texts are not cut.
    """
    return Environment(
        loader=FileSystemLoader([*folders, COMMON]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: value if isinstance(value, Markup) else clean(value, longest),
    )  # fmt: skip
