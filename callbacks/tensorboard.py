"""TensorBoard's event file, directly in the run's folder."""

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its version folders and without its hparams.yaml (.hydra/config.yaml has it all).

    Args:
        first_step: of a run that goes on; what was written from there on before it was stopped is not shown twice.
    """

    def __init__(self, *, folder: str, first_step: int | None = None):
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, purge_step=first_step)

    def save(self) -> None:
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Keeps the file open: fit, validate and test of one run go into the same one, until `close`."""
        self.save()

    def close(self) -> None:
        self.experiment.close()


def show(trainer, name: str, pixels: np.ndarray) -> None:
    """A picture (H, W, 3) of uint8 into every logger of the run, at the current epoch."""
    for logger in trainer.loggers:
        logger.experiment.add_image(name, pixels, trainer.current_epoch, dataformats="HWC")
