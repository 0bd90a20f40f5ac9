"""What the screen shows of the log: the message alone, with the level before it from warning on."""

import contextlib
import logging
import sys
from pathlib import Path

from common.text import printable


class ScreenFormatter(logging.Formatter):
    """`text` for information, `WARNING: text` and `ERROR: text` for the rest; behind a name where there is one."""

    name = ""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        text = text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        return f"[{self.name}] {text.strip()}" if self.name else text


class ScreenHandler(logging.Handler):
    """Writes to standard output, above a progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if "tqdm" in sys.modules:  # not imported for its own sake: help and errors have to be quick
            sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()


class LogFileHandler(logging.Handler):
    """Adds lines to a file; on a full disk they are lost, and the run goes on."""

    def __init__(self, filename: str):
        super().__init__()
        self._file = Path(filename).open("ab", buffering=0)  # noqa: SIM115 closed below; unbuffered, so that nothing is left to fail

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        self._file.close()
        super().close()


def prefix_log_lines(name: str) -> None:
    """Puts a job's name before each line of this process, where other processes write to the same screen."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ScreenFormatter):
            handler.formatter.name = name


class WarningCollector(logging.Handler):
    """Keeps the warnings of a run, for its record."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


def log_python_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Stands in for warnings.showwarning: one line on the screen and in the record."""
    logging.getLogger("warnings").warning("%s (%s)", " ".join(str(message).split()), category.__name__)
