"""Keep what one job of a sweep has listed, opened and audited for the next jobs of the same process."""

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

Made = TypeVar("Made")
MOST = 12  # entries, the last used; each may hold a catalog


class Memory:
    """Make each object once, as long as it is among the last used."""

    def __init__(self):
        self._made: dict[Hashable, tuple[object, list[logging.LogRecord]]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` returns, or returned for this key before; log its warnings again for this job's record."""
        if key in self._made:
            made, warnings = self._made.pop(key)
            for each in warnings:
                logging.getLogger(each.name).log(each.levelno, "%s", each.getMessage())
        else:
            with collect_warnings() as warnings:
                made = make()
        self._made[key] = made, warnings
        while len(self._made) > MOST:
            del self._made[next(iter(self._made))]
        return made


@contextlib.contextmanager
def collect_warnings() -> Iterator[list[logging.LogRecord]]:
    """Yield a list to which every warning inside is added as it is logged."""
    records: list[logging.LogRecord] = []
    root, collector = logging.getLogger(), logging.Handler(logging.WARNING)
    collector.emit = records.append
    root.addHandler(collector)
    try:
        yield records
    finally:
        root.removeHandler(collector)
