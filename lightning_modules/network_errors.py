"""Errors of the networks as the project's own: networks/ imports nothing of it."""

import contextlib
from collections.abc import Iterator

from common.errors import UserError
from common.text import did_you_mean
from lightning_modules.networks.errors import NetworkError


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turn a NetworkError into a UserError that names what is allowed, the closest names first."""
    try:
        yield
    except NetworkError as error:
        allowed = f"; {did_you_mean(error.name, error.allowed)}" if error.allowed else ""
        raise UserError(f"{error.message}{allowed}") from error
