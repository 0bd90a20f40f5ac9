"""Show the log on the screen as plain messages, with the level from warning on; write it to a file; collect warnings."""

import contextlib
import logging
import sys
from pathlib import Path

from common.text import printable


class ScreenFormatter(logging.Formatter):
    """Format information as `text`, the rest as `WARNING: text` and `ERROR: text`; behind a name where there is one."""

    name = ""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        text = text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        return f"[{self.name}] {text.strip()}" if self.name else text


class ScreenHandler(logging.Handler):
    """Write to standard output, above a progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if "tqdm" in sys.modules:  # not imported for this: help and errors have to be quick
            sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()


class LogFileHandler(logging.Handler):
    """Append lines to a file; on a full disk they are lost, and the run continues."""

    def __init__(self, filename: str):
        super().__init__()
        self._file = Path(filename).open("ab", buffering=0)  # noqa: SIM115 closed below; unbuffered, so that no flush can fail

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        self._file.close()
        super().close()


class WarningCollector(logging.Handler):
    """Keep the warnings of a run, for its record."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


def prefix_log_lines(name: str) -> None:
    """Put a job's name before each line of this process, where other processes write to the same screen."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ScreenFormatter):
            handler.formatter.name = name


def log_python_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Log a warning in one line, in place of warnings.showwarning, so that it is on the screen and in the record."""
    logging.getLogger("warnings").warning("%s (%s)", " ".join(str(message).split()), category.__name__)
