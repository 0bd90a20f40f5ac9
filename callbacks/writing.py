"""What a run can do without: a file that cannot be written is a warning, and the run goes on."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from .errors import PLACES

log = logging.getLogger(__name__)


@contextlib.contextmanager
def may_fail(path: Path) -> Iterator[None]:
    """Around the writing of `path`: a full disk or a missing permission is told once a reason, and recorded."""
    try:
        yield
    except OSError as error:
        if error.errno not in PLACES:
            raise
        log.warning("%s is not written (%s); the run goes on", path, error.strerror)
