"""Measure how fast the run trains and how much memory it takes."""

import sys
import time

import lightning as L
import numpy as np
import torch

from common import run_record
from common.processor_time import CoreUse, CoreWatch
from common.run_record import EpochSpeed
from lightning_modules.epoch_end import ends_epoch

LARGEST_RATIO = 3.0  # p95 over p50 of the steps on a processor, above which an epoch is flagged
FEWEST_STEPS = 20  # with fewer, p95 is the slowest step
SHORTEST_S = 1.0  # shorter epochs are not judged, since the system's own work is a large part of them


class Throughput(L.Callback):
    """Measure the seconds to the first optimizer step, and the images per second in the training part of each epoch.

    An epoch is flagged if other programs used the cores that the training needs.

    Args:
        started_s: `time.perf_counter()` when the process, or its job of a sweep, started.
    """

    def __init__(self, *, started_s: float):
        self.started_s = started_s
        self.first_step_s: float | None = None
        self.epochs: list[EpochSpeed] = []
        self._epoch_started_s = 0.0
        self._images = 0
        self._seconds = 0.0  # of the epoch's training part so far
        self._steps_s: list[float] = []
        self._step_started_s = 0.0
        self._watch: CoreWatch | None = None
        self._used: CoreUse | None = None  # set when the training part is over

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._epoch_started_s = time.perf_counter()
        self._images, self._steps_s = 0, []
        self._watch, self._used = CoreWatch(), None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._step_started_s = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        self._images += len(batch["labels"])
        if self.first_step_s is None:
            self.first_step_s = now - self.started_s
        self._seconds = now - self._epoch_started_s
        self._steps_s.append(now - self._step_started_s)
        if ends_epoch(trainer):  # before its validation
            self._used = self._watch.used()

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        used = self._used or self._watch.used()
        self.epochs.append(self._describe(used, trainer.world_size, trainer.strategy.root_device.type == "cpu"))

    def _describe(self, used: CoreUse, processes: int, on_processor: bool) -> EpochSpeed:
        p50, p95 = (1000 * np.percentile(self._steps_s or [0.0], (50, 95))).tolist()
        flag = None
        if self._seconds >= SHORTEST_S:
            flag = used.describe_shortage(torch.get_num_threads() if on_processor else 1, "training")
            if flag is None and on_processor and len(self._steps_s) >= FEWEST_STEPS and p95 > LARGEST_RATIO * p50:
                flag = f"p95 of the steps is {p95 / p50:.1f} times p50"
        return EpochSpeed(
            images=self._images * processes,
            seconds=round(self._seconds, 3),
            step_p50_ms=round(p50, 3),
            step_p95_ms=round(p95, 3),
            others_cores=None if used.others_s is None else round(used.others_s / used.wall_s, 2),
            stolen_cores=None if used.stolen_s is None else round(used.stolen_s / used.wall_s, 2),
            flag=flag,
        )

    def measured(self) -> run_record.Throughput:
        """Return the record's `throughput`; its rate excludes the first epoch (warm-up) and, if possible, flagged epochs."""
        steady = run_record.undisturbed(self.epochs[1:])
        seconds = sum(epoch.seconds for epoch in steady)
        return run_record.Throughput(
            train_images_per_s=round(sum(epoch.images for epoch in steady) / seconds, 1) if seconds else None,
            flag=steady[0].flag if seconds else None,
            epochs=self.epochs,
            time_to_first_step_s=self.first_step_s and round(self.first_step_s, 2),
            peak_memory_mib=peak_memory_mib(),
        )


def peak_memory_mib() -> dict[str, float]:
    """Return the peak resident memory of the process and, if it used a GPU, the peak memory there; in MiB."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch.cuda.is_initialized():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
