"""Log lines of smallest.py: its own, at least one every five seconds, and none from its runs."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

import common.progress
from engine.log_handlers import ScreenFormatter

log = logging.getLogger(__name__)

SHOWN: set[str] = set()  # lines on images and weights that are on the screen already
READING = ("datamodules.cache_build", "datamodules.cache_folder", "datamodules.prepare")  # loggers of how far that is
OWN = "engine.smallest"  # loggers whose lines are shown while a run trains


class Progress(common.progress.Progress):
    """The progress of a search; the log lines of its runs can be hidden."""

    def __init__(self, text: str = ""):
        super().__init__(text, log, own=OWN)

    def epoch(self, done: float, epochs: int) -> None:
        """Store a run's progress for the next line."""
        self.how_far = f"epoch {min(int(done) + 1, epochs)} of {epochs}, {done / epochs:.0%}"

    @contextlib.contextmanager
    def open_to_others(self) -> Iterator[None]:
        """Let other rooms show how far they are."""
        self.own = ""
        try:
            yield
        finally:
            self.own = OWN

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Hide a run's lines, warnings included, from screen and smallest.log; its own log and record have them."""
        with _filtered(logging.getLogger().handlers, self.is_own):  # current handlers only: a run adds its own later
            yield


@contextlib.contextmanager
def repeats_hidden(all_information: bool = False) -> Iterator[None]:
    """Show repeated lines on images and weights only once per process.

    Args:
        all_information: also hide every line below warnings, except those on how far the images are read and compared.
    """

    def is_new(record: logging.LogRecord) -> bool:
        if not record.name.startswith(("datamodules.", "lightning_modules.")):
            return True
        if all_information and record.levelno < logging.WARNING and record.name not in READING:
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
