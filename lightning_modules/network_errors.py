"""Connect networks/, which imports nothing else of the project: convert its errors, and register the user's own networks."""

import contextlib
from collections.abc import Iterator, Sequence

from common.errors import UserError
from common.targets import resolve_target
from common.text import did_you_mean
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.registry import OWN


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turn a NetworkError into a UserError that names what is allowed, the closest names first."""
    try:
        yield
    except NetworkError as error:
        allowed = f"; {did_you_mean(error.name, error.allowed)}" if error.allowed else ""
        raise UserError(f"{error.message}{allowed}") from error


def register_by_name(names: Sequence[str], key: str) -> None:
    """Register networks, backbones and heads of the user's own by their full names, so checkpoints may name them.

    Args:
        names: package.module.Class of each; from the command line or the user's configuration, never from a checkpoint.
        key: name of the setting, for messages.

    Raises:
        UserError: this is not a list of names, or one cannot be imported.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={names}: use a list of full names, {key}=[package.module.Class]")
    for name in names:
        OWN[name] = resolve_target(name, key)
