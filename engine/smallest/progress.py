"""The screen of smallest.py: its own lines, at least one every five seconds, and none of the runs' own."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)

EVERY_S = 5.0
OWN = "engine.smallest"  # loggers whose lines are shown while a run trains


class Progress:
    """Repeat what is being done and how far it is, whenever the screen was silent for a while; as a context."""

    def __init__(self):
        self._title, self._detail, self._latest_s = "", "", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._heard = _Heard(self)

    def __enter__(self) -> "Progress":
        logging.getLogger().addHandler(self._heard)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(timeout=EVERY_S)
        logging.getLogger().removeHandler(self._heard)

    def begin(self, title: str) -> None:
        """Say what is done from now on, as `race: run 3 of 9, NAME`; shown at once."""
        self._title, self._detail = title, ": starting"
        log.info("%s", title)

    def pause(self) -> None:
        """Repeat nothing until the next `begin`."""
        self._title = ""

    def epoch(self, done: float, epochs: int) -> None:
        """Keep how far a run is, for the next line."""
        self._detail = f": epoch {min(int(done) + 1, epochs)} of {epochs}, {done / epochs:.0%}"

    def heard(self) -> None:
        """Note that a line was shown."""
        self._latest_s = time.monotonic()

    def _repeat(self) -> None:
        while not self._ended.wait(0.5):
            if self._title and time.monotonic() - self._latest_s > EVERY_S - 1:
                log.info("%s%s", self._title, self._detail)

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
