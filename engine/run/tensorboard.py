"""TensorBoard's event file, directly in the run's folder."""

import logging
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from common.atomic_io import write_bytes
from common.errors import DISK_ERRORS

log = logging.getLogger(__name__)

PROBE = 2**16  # bytes; the first image is larger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its version folders and without its hparams.yaml (.hydra/config.yaml has it all).

    Args:
        first_step: of a run that goes on; what was written from there on before it was stopped is not shown twice.
    """

    def __init__(self, *, folder: str, first_step: int | None = None):
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, purge_step=first_step)

    @property
    def experiment(self) -> SummaryWriter:
        is_new = self._experiment is None and rank_zero_only.rank == 0
        if is_new and not self._can_be_written():
            self._experiment = Nothing()
        writer = super().experiment
        if is_new and isinstance(writer, SummaryWriter):
            events = writer.file_writer.event_writer
            # A thread of TensorBoard writes, and an error in it can be caught nowhere else
            events._async_writer._writer._writer = FileThatMayEnd(events._general_file_writer, Path(self.log_dir))
        return writer

    def _can_be_written(self) -> bool:
        """Tried out, since TensorBoard's own first write has no way to fail quietly."""
        probe = Path(self.log_dir) / ".tensorboard"
        try:
            write_bytes(probe, bytes(PROBE))
            probe.unlink()
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            log.warning("%s: no TensorBoard (%s); the run goes on", probe.parent, error.strerror)
            return False
        return True

    def save(self) -> None:
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Keeps the file open: fit, validate and test of one run go into the same one, until `close`."""
        self.save()

    def close(self) -> None:
        self.experiment.close()


class Nothing:
    """Takes whatever a SummaryWriter takes."""

    def __getattr__(self, name: str) -> "Nothing":
        return self

    def __call__(self, *arguments, **options) -> "Nothing":
        return self


class FileThatMayEnd:
    """A file that takes nothing more once a write has failed: half a record would spoil all that come after it."""

    def __init__(self, file, folder: Path):
        self.file = file
        self.folder = folder
        self.closed = False
        self._ended = False

    def write(self, content: bytes) -> None:
        self._try(lambda: self.file.write(content))

    def flush(self) -> None:
        self._try(self.file.flush)

    def close(self) -> None:
        self._try(self.file.close)
        self.closed = True

    def _try(self, action) -> None:
        if self._ended:
            return
        try:
            action()
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            self._ended = True
            log.warning("%s: TensorBoard's file ends here (%s); the run goes on", self.folder, error.strerror)
