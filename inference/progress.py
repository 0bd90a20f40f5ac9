"""The screen while a command computes: what it does now, every few seconds for how long, and nothing of libraries' own."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from common.text import duration

log = logging.getLogger(__name__)

SILENCE_S = 4.0  # after which a line is shown


@contextlib.contextmanager
def phase(text: str) -> Iterator[None]:
    """Show what is done, and while that takes longer, `...: 4 s so far`."""
    log.info("%s", text)
    ended, begun_s = threading.Event(), time.monotonic()

    def repeat() -> None:
        while not ended.wait(SILENCE_S):
            seconds = round(time.monotonic() - begun_s)
            log.info("%s: %s so far", text, f"{seconds} s" if seconds < 60 else duration(seconds))

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=SILENCE_S)


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Keep what libraries in C++ write to standard error off the screen."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
