"""TensorBoard's event file, directly in the run's folder."""

import contextlib
import threading

from lightning.pytorch.loggers import TensorBoardLogger

from common.errors import DISK_ERRORS


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its version folders and without its hparams.yaml (.hydra/config.yaml has it all).

    Args:
        folder: of the run.
        first_step: of a resumed run; what was logged from there on before the interruption is hidden.
    """

    def __init__(self, *, folder: str, first_step: int | None = None):
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, purge_step=first_step)
        threading.excepthook = _ignore_disk_errors

    def save(self) -> None:
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Keep the file open for validate and test after fit, until `close`; after an error write what can be written."""
        with contextlib.suppress(OSError) if status == "failed" else contextlib.nullcontext():
            self.save()

    def close(self) -> None:
        self.experiment.close()


def _ignore_disk_errors(arguments: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread's error, but of none that TensorBoard's writer raises again in the main thread."""
    if not (isinstance(arguments.exc_value, OSError) and arguments.exc_value.errno in DISK_ERRORS):
        threading.__excepthook__(arguments)
