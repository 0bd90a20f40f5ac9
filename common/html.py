"""What every page of this project is made with: Jinja2 that escapes everything, and the look of page.css."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.text import clean

COMMON = Path(__file__).parent


def jinja_environment(*folders: Path, longest: int | None = None) -> Environment:
    """Return Jinja2 for HTML with the templates of some folders and of common/; undefined names are errors.

    Args:
        folders: of the templates.
        longest: characters of one text, after which it is cut.
    """
    return Environment(
        loader=FileSystemLoader([*folders, COMMON]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: value if isinstance(value, Markup) else clean(value, longest),
    )  # fmt: skip
