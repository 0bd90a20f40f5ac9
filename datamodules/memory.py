"""What one job of a sweep has listed, opened and audited, kept for the next jobs of its process."""

from collections.abc import Callable, Hashable
from typing import TypeVar

Made = TypeVar("Made")
MOST = 12  # of the last used: each may hold a catalog


class Memory:
    """Make each thing once, as long as it is among the last used."""

    def __init__(self):
        self._made: dict[Hashable, object] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, or what it gave for this key before."""
        made = self._made.pop(key) if key in self._made else make()
        self._made[key] = made
        while len(self._made) > MOST:
            del self._made[next(iter(self._made))]
        return made
