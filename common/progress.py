"""Show lines while something takes long, so the screen is never silent for more than five seconds."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from common.text import duration, plural

SILENCE_S = 4.0  # seconds of silence after which a line is shown
EVERY_S = 60.0  # the same after the first line within an epoch or a sweep, which have lines of their own
POLL_S = 0.5


class Progress:
    """Show what is being done and how far it is whenever the screen was silent for a while; a context manager.

    When they are nested, only the inner one shows lines, unless the outer one has `own`, which keeps others off the screen.

    Args:
        text: what is done at first; nothing is shown if it takes no time or the text is empty.
        own: prefix of the names of loggers whose lines are on the screen; by default all are.
    """

    screen_s: ClassVar[float | None] = None  # time of the last line on the screen of a command; None: no command
    _innermost: ClassVar["Progress | None"] = None

    def __init__(self, text: str = "", log: logging.Logger | None = None, own: str = ""):
        self._log, self.own = log or logging.getLogger(__name__), own
        self._silence_s: float | None = None  # None: SILENCE_S
        self.then_every_s: float | None = None  # seconds of silence that are allowed after its next line
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._heard = _Heard(self)
        self._shown_s = time.monotonic()
        self.set(text)

    def __enter__(self) -> "Progress":
        logging.getLogger().addHandler(self._heard)
        self._outer = Progress._innermost
        if self._outer is not None:
            self._shown_s = self._outer._shown_s
        elif Progress.screen_s is not None:  # the silence of two short ones in a row adds up
            self._shown_s = Progress.screen_s
        if self._outer is None or not self._outer.own:
            Progress._innermost = self
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        while Progress._innermost and Progress._innermost._ended.is_set():  # those of two threads may end in any order
            Progress._innermost = Progress._innermost._outer
        self._thread.join(timeout=SILENCE_S)
        logging.getLogger().removeHandler(self._heard)

    def begin(self, text: str) -> None:
        """Set what is done from now on, such as `race: run 3 of 9, NAME`, and show it at once."""
        self.set(text)
        self._log.info("%s", text)

    def set(self, text: str, how_far: str | Callable[[], str] = "") -> None:
        """Set what is done from now on, for the next line; `how_far` may be a function that is called then."""
        self._text, self.how_far, self._begun_s, self._share = text, how_far, time.monotonic(), None

    def count(self, done: int, total: int, what: str = "image") -> None:
        """Set how far it is, for the next line: `40 of 200 images, 12 s`, and `, about 48 s left` if silence follows it."""
        self.how_far, self._share = f"{done:,} of {plural(total, what)}", done / max(total, 1)

    def is_own(self, record: logging.LogRecord) -> bool:
        """Return whether a line is on the screen."""
        return record.name.startswith(self.own)

    def _repeat(self) -> None:
        while not self._ended.wait(POLL_S):
            self._show_if_silent()

    def _show_if_silent(self) -> None:
        now, silence_s = time.monotonic(), self._silence_s or SILENCE_S
        if self._text and Progress._innermost is self and now - self._shown_s > silence_s - POLL_S:
            self._silence_s = self.then_every_s
            elapsed_s = now - self._begun_s
            elapsed = rounded(elapsed_s, to_s=1)  # makes each line different
            known = self.how_far() if callable(self.how_far) else self.how_far
            how_far = known or f"{elapsed} so far" if self._share is None else f"{known}, {elapsed}"
            if self.then_every_s and self._share:
                how_far += f", about {rounded(elapsed_s / self._share - elapsed_s)} left"
            self._log.info("%s: %s", self._text, how_far)


def rounded(seconds: float, to_s: int = 10) -> str:
    """Return `1 min 20 s`, `35 s`."""
    return f"{max(1, round(seconds))} s" if seconds < 60 else duration(round(seconds / to_s) * to_s)


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Keep off the screen what C++ libraries write to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Heard(logging.Handler):
    """Note each line on the screen."""

    def __init__(self, progress: Progress):
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if self._progress.is_own(record):
            self._progress._shown_s = time.monotonic()
