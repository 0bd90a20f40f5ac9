"""Letters beyond those of the usual font, with the fonts that matplotlib brings."""

import warnings
from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from evaluation import fonts
from evaluation.figures import figure_pixels

OURS = "\u0359"  # a mark that STIXGeneral has and DejaVu Sans has not
NOBODYS = "\u72ac\u732b"  # dog and cat in Chinese


@pytest.fixture(autouse=True)
def only_its_own_fonts(monkeypatch):
    """As on a machine without further fonts."""
    own = str(Path(matplotlib.__file__).parent)
    listed = [each for each in font_manager.fontManager.ttflist if each.fname.startswith(own)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    fonts._font_with.cache_clear()
    yield
    fonts._font_with.cache_clear()


def drawn(text: str):
    figure = Figure(figsize=(2, 1))
    shown = figure.text(0.1, 0.1, text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        figure_pixels(figure)
    return shown.get_fontfamily(), [str(each.message) for each in found]


def test_a_text_uses_a_font_that_has_its_letters(caplog):
    family, found = drawn(f"a{OURS}")
    assert family == ["DejaVu Sans", "STIXGeneral"] and not found and not caplog.records
    assert drawn("h\u00e9llo, \u03b1") == (["sans-serif"], [])


def test_letters_that_no_font_has_are_named_once(caplog):
    for _ in range(2):
        family, found = drawn(NOBODYS)
        assert family == ["sans-serif"] and not found
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"figures show boxes for {NOBODYS}: no installed font has these letters; install one"
    )
