"""Show the log on the screen, write it to a file, and collect warnings."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from common.progress import Progress
from common.text import printable

log = logging.getLogger(__name__)

OF_FONT_CACHE = ("mkdir -p failed for path", "is not a writable directory", "created a temporary cache directory")


class ScreenFormatter(logging.Formatter):
    """Format information as `text`, and the rest as `WARNING: text` or `ERROR: text`; prefix `[name]` where it is set."""

    name = ""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        text = text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        return f"[{self.name}] {text.strip()}" if self.name else text


class ScreenHandler(logging.Handler):
    """Write to standard output, above a progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{self.format(record)}\n"  # written in one piece, since other processes write to the same screen
        # tqdm is not imported here, to keep help and errors fast; another thread may be importing it at this moment
        if (tqdm := getattr(sys.modules.get("tqdm"), "tqdm", None)) is not None:
            tqdm.write(text, file=sys.stdout, end="")
        else:
            sys.stdout.write(text)
        sys.stdout.flush()


class ProtectedStream:
    """Write to a screen that may be closed or full: log that once, discard later text, and let the command continue.

    Characters that the screen cannot show are written as escapes.
    """

    def __init__(self, stream):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if Progress.screen_s is not None:
            Progress.screen_s = time.monotonic()
        self._protected(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._protected(self._stream.flush)

    def _protected(self, do: Callable, *arguments) -> None:
        try:
            do(*arguments)
        except OSError as error:
            with contextlib.suppress(OSError, ValueError):  # buffered text goes there, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            log.warning("could not write to the screen (%s); continuing without it", error.strerror)


def protect_screen() -> None:
    """Keep a closed pipe or terminal, a full disk behind `>` and characters the screen cannot encode from ending a command."""
    logging.getLogger("matplotlib").addFilter(_concerns_user)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    # Where a stream was closed from the start (`2>&-`), a file opened later would get its descriptor, and with it what C++
    # libraries print
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed from the start: `>&-`
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 open as long as the process
        if not isinstance(stream, ProtectedStream):
            setattr(sys, name, ProtectedStream(stream))
    Progress.screen_s = time.monotonic()


def _concerns_user(record: logging.LogRecord) -> bool:
    """Return False for messages on where matplotlib keeps its font cache, which changes no figure."""
    return not any(text in str(record.msg) for text in OF_FONT_CACHE)


class LogFileHandler(logging.Handler):
    """Append lines to a file, created with the first line; lines that cannot be written are lost, and the run continues."""

    def __init__(self, filename: str):
        super().__init__()
        self.path = Path(filename)
        self._file, self._size_before, self._has_failed = None, None, False

    def emit(self, record: logging.LogRecord) -> None:
        if self.path is None:
            return
        try:
            if self._file is None:
                self._size_before = self.path.stat().st_size if self.path.exists() else None
                self._file = self.path.open("ab", buffering=0)  # unbuffered, so that no flush can fail
            self._file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True  # set first: this handler gets the warning, too
                log.warning("could not write %s (%s); continuing", self.path, error.strerror)

    def undo(self) -> None:
        """Restore the file as it was, and write no more."""
        with contextlib.suppress(OSError):
            if self._file is not None and self._size_before is not None:
                self._file.truncate(self._size_before)
        self.close()
        with contextlib.suppress(OSError):
            if self._file is not None and self._size_before is None:
                self.path.unlink()  # Windows removes no open file
        self.path = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def undo_log_file(path: Path) -> None:
    """Remove what this command has written to a log file."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFileHandler) and handler.path and handler.path.absolute() == path.absolute():
            handler.undo()


class WarningCollector(logging.Handler):
    """Collect the warnings of a run for its record."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


def prefix_log_lines(name: str) -> None:
    """Prefix each screen line of this process with a job's name, since other processes write to the same screen."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ScreenFormatter):
            handler.formatter.name = name


def log_python_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Log a Python warning in one line, so that it reaches the screen and the record; replaces warnings.showwarning."""
    logging.getLogger("warnings").warning("%s (%s)", " ".join(str(message).split()), category.__name__)


def silence_further_process(rank: int) -> None:
    """Log errors only in all processes of a run except the first."""
    logging.disable(logging.WARNING if rank else logging.NOTSET)
