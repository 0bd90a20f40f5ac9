"""The screen of smallest.py: its own lines, at least one every five seconds, and none of the runs' own."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

import common.progress
from engine.log_handlers import ScreenFormatter

log = logging.getLogger(__name__)

SHOWN: set[str] = set()  # on the screen, of images and weights
OWN = "engine.smallest"  # loggers whose lines are shown while a run trains


class Progress(common.progress.Progress):
    """The progress of a search, beside which the lines of its runs are hidden."""

    def __init__(self, text: str = ""):
        super().__init__(text, log, own=OWN)

    def epoch(self, done: float, epochs: int) -> None:
        """Keep how far a run is, for the next line."""
        self.how_far = f"epoch {min(int(done) + 1, epochs)} of {epochs}, {done / epochs:.0%}"

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep the lines of a run off the screen and smallest.log, warnings too: they are in its own log and record."""
        with _filtered(logging.getLogger().handlers, self.is_own):  # of now: a run adds its own later
            yield


@contextlib.contextmanager
def repeats_hidden(all_information: bool = False) -> Iterator[None]:
    """Show once what is logged of the same images and weights, over all blocks of this process.

    Args:
        all_information: hide what is no warning as well, but that images are being read.
    """

    def is_new(record: logging.LogRecord) -> bool:
        if not record.name.startswith(("datamodules.", "lightning_modules.")):
            return True
        if all_information and record.levelno < logging.WARNING and record.name != "datamodules.pixel_cache":
            return False
        text, before = record.getMessage(), len(SHOWN)
        SHOWN.add(text)
        return len(SHOWN) > before

    with _filtered(
        [each for each in logging.getLogger().handlers if isinstance(each.formatter, ScreenFormatter)], is_new
    ):
        yield


@contextlib.contextmanager
def _filtered(handlers: Iterable[logging.Handler], is_shown: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    handlers = list(handlers)
    for handler in handlers:
        handler.addFilter(is_shown)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_shown)
