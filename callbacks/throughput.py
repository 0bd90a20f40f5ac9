"""How fast the run trains."""

import sys
import time

import lightning as L
import torch

from engine.cli import STARTED


class Throughput(L.Callback):
    """Seconds to the first optimizer step, and images a second of the training part of each epoch."""

    def __init__(self):
        self.first_step_s: float | None = None
        self.epochs: list[dict] = []  # images, seconds
        self._epoch_started = 0.0
        self._images = 0

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning leaves it out where it goes on in the middle of one

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._epoch_started = time.perf_counter()
        self._images = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._images += len(batch["labels"])
        if self.first_step_s is None:
            self.first_step_s = time.perf_counter() - STARTED[-1]
        if trainer.is_last_batch:
            self.epochs.append(
                {"images": self._images * trainer.world_size, "seconds": time.perf_counter() - self._epoch_started}
            )

    def measured(self) -> dict:
        """The record's `throughput`; the first epoch is left out, since it warms up."""
        steady = self.epochs[1:]
        seconds = sum(epoch["seconds"] for epoch in steady)
        rate = sum(epoch["images"] for epoch in steady) / seconds if seconds else None
        return {
            "train_images_per_s": rate and round(rate, 1),
            "epochs": [{"images": e["images"], "seconds": round(e["seconds"], 3)} for e in self.epochs],
            "time_to_first_step_s": self.first_step_s and round(self.first_step_s, 2),
            "peak_memory_mib": peak_memory_mib(),
        }


def peak_memory_mib() -> dict[str, float]:
    """Largest resident memory of the process, and of the GPU where one was used."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
