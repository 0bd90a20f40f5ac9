"""Give each text of a figure a font with its letters: class names may be in any script, and matplotlib's font covers few."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)

USUAL = "DejaVu Sans"  # comes with matplotlib
LAST_RESORT = "Last Resort"  # a font whose letters are all boxes

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns if a font has no bold letters


@contextlib.contextmanager
def fonts_of(figure: Figure) -> Iterator[None]:
    """Inside, draw each text that the usual font cannot show with one that can; log once which letters no font has."""
    _choose_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)  # one per letter
        yield


def _choose_fonts(figure: Figure) -> None:
    usual = _letters(font_manager.findfont(USUAL))
    for text in figure.findobj(Text):
        missing = frozenset(code for code in map(ord, text.get_text()) if code > 127 and code not in usual)
        if missing and (name := _font_with(missing)) is not None:
            text.set_fontfamily([USUAL, name])


@functools.cache
def _font_with(missing: frozenset[int]) -> str | None:
    """Return the name of the installed font with the most of these letters; None if no font has any."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for file in set(font_manager.findSystemFonts()) - known:  # installed after matplotlib listed its fonts
        with contextlib.suppress(OSError, RuntimeError):  # a font that it cannot read
            font_manager.fontManager.addfont(file)
    fonts = [each for each in font_manager.fontManager.ttflist if not each.name.startswith(LAST_RESORT)]
    fonts.sort(key=lambda each: (each.style != "normal", each.weight != 400, each.name))
    best = max(fonts, key=lambda each: len(missing & _letters(each.fname)))
    if lacking := missing - _letters(best.fname):
        log.warning(
            "figures show boxes for %s: no installed font has these letters; install one, e.g. apt-get install "
            "fonts-noto-cjk", "".join(map(chr, sorted(lacking)[:20])),
        )  # fmt: skip
    return None if lacking == missing else best.name


@functools.cache
def _letters(file: str) -> frozenset[int]:
    """Return the code points of the letters that a font file has; none if it cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
