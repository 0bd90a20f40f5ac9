"""The screen of smallest.py: its own lines, at least one every five seconds, and none of the runs' own."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from common.text import duration

log = logging.getLogger(__name__)

SILENCE_S = 4.0  # after which a line is shown
POLL_S = 0.5
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
        handlers = list(logging.getLogger().handlers)  # a run adds its own later
        for handler in handlers:
            handler.addFilter(_is_own)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(_is_own)


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
