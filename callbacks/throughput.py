"""Measure how fast the run trains and how much memory it takes."""

import sys
import time

import lightning as L
import torch

from common import run_record
from common.run_record import EpochSpeed


class Throughput(L.Callback):
    """Measure the seconds to the first optimizer step, and the images a second of the training part of each epoch.

    Args:
        started_s: `time.perf_counter()` when the process, or its job of a sweep, started.
    """

    def __init__(self, *, started_s: float):
        self.started_s = started_s
        self.first_step_s: float | None = None
        self.epochs: list[EpochSpeed] = []
        self._epoch_started_s = 0.0
        self._images = 0
        self._seconds = 0.0  # of the training part of the epoch so far

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._epoch_started_s = time.perf_counter()
        self._images = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._images += len(batch["labels"])
        if self.first_step_s is None:
            self.first_step_s = time.perf_counter() - self.started_s
        self._seconds = time.perf_counter() - self._epoch_started_s

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.epochs.append(EpochSpeed(images=self._images * trainer.world_size, seconds=round(self._seconds, 3)))

    def measured(self) -> run_record.Throughput:
        """Return the record's `throughput`; the rate excludes the first epoch, which warms up."""
        steady = self.epochs[1:]
        seconds = sum(epoch.seconds for epoch in steady)
        return run_record.Throughput(
            train_images_per_s=round(sum(epoch.images for epoch in steady) / seconds, 1) if seconds else None,
            epochs=self.epochs,
            time_to_first_step_s=self.first_step_s and round(self.first_step_s, 2),
            peak_memory_mib=peak_memory_mib(),
        )


def peak_memory_mib() -> dict[str, float]:
    """Return the largest resident memory of the process, and of the GPU where there is one."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
