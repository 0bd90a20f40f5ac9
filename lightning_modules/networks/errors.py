"""The error for a network's arguments."""

from collections.abc import Iterable


class NetworkError(ValueError):
    """Name a setting with which no network can be built.

    Attributes:
        message: the setting and its value.
        name: the name that is not allowed, if the setting is one of several names.
        allowed: the allowed names.
    """

    def __init__(self, message: str, *, name: str = "", allowed: Iterable[str] = ()):
        self.message = message
        self.name = name
        self.allowed = tuple(allowed)
        super().__init__(f"{message}; allowed: {', '.join(self.allowed)}" if self.allowed else message)
