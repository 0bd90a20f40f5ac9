"""The screen of smallest.py: its own lines, at least one every five seconds, and none of the runs' own."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from common.text import duration
from engine.log_handlers import ScreenFormatter

log = logging.getLogger(__name__)

SILENCE_S = 4.0  # after which a line is shown
POLL_S = 0.5
SHOWN: set[str] = set()  # on the screen, of images and weights
OWN = "engine.smallest"  # loggers whose lines are shown while a run trains


class Progress:
    """Repeat what is being done and how far it is, whenever the screen was silent for a while; as a context.

    Args:
        text: what is done at first; nothing is shown of what takes no time.
    """

    def __init__(self, text: str = ""):
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._heard = _Heard(self)
        self._shown_s = time.monotonic()
        self.set(text)

    def __enter__(self) -> "Progress":
        logging.getLogger().addHandler(self._heard)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(timeout=SILENCE_S)
        logging.getLogger().removeHandler(self._heard)

    def begin(self, text: str) -> None:
        """Say what is done from now on, as `race: run 3 of 9, NAME`; shown at once."""
        self.set(text)
        log.info("%s", text)

    def set(self, text: str, how_far: str = "") -> None:
        """Keep what is done from now on, for the next line."""
        self._text, self._how_far, self._begun_s = text, how_far, time.monotonic()

    def epoch(self, done: float, epochs: int) -> None:
        """Keep how far a run is, for the next line."""
        self._how_far = f"epoch {min(int(done) + 1, epochs)} of {epochs}, {done / epochs:.0%}"

    def heard(self) -> None:
        """Note that a line was shown."""
        self._shown_s = time.monotonic()

    def _repeat(self) -> None:
        while not self._ended.wait(POLL_S):
            now = time.monotonic()
            if self._text and now - self._shown_s > SILENCE_S - POLL_S:
                log.info("%s: %s", self._text, self._how_far or f"{rounded(now - self._begun_s)} so far")

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep the lines of a run off the screen and smallest.log, warnings too: they are in its own log and record."""
        with _filtered(logging.getLogger().handlers, _is_own):  # of now: a run adds its own later
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


def rounded(seconds: float) -> str:
    """Return `1 min 20 s`, `35 s`."""
    return f"{max(1, round(seconds))} s" if seconds < 60 else duration(round(seconds / 10) * 10)


class _Heard(logging.Handler):
    """Note each line of this command's own."""

    def __init__(self, progress: Progress):
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if _is_own(record):
            self._progress.heard()


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.startswith(OWN)
