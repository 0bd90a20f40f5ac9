"""Replay the steps of a run on a GPU as CUDA graphs (lightning_modules/captured_step.py)."""

import logging
from collections.abc import Callable
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision

from lightning_modules.captured_step import CapturedEvaluation, CapturedStep, state_of

log = logging.getLogger(__name__)

KNOWN = {"lightning_modules", "torch", "torchmetrics", "torchvision", "timm"}  # whose modules can be captured


class CudaGraphs(L.Callback):
    """Capture the step of a full batch, in training and in evaluation, and replay it until anything it depends on changes.

    Batches of another size and the optimizer run without a graph. The step is captured again after progressive resizing has
    changed the image size, or layers were frozen or unfrozen.

    Args:
        enabled: true, false or auto. auto captures only networks and losses of this project, torchvision and timm: a replay
            repeats what a module's Python code did in the captured step (a counter, a choice by random.random()), which may be
            wrong for a user's own network.
    """

    def __init__(self, *, enabled: bool | Literal["auto"]):
        self.enabled = enabled
        self._possible = False
        self._is_current = False  # whether the capture was compared with the classifier in this pass over a split

    def setup(self, trainer, pl_module, stage: str) -> None:
        if not self._on_gpu(trainer):
            return
        reason = self._reason_against(trainer, pl_module)
        self._possible = reason is None
        if reason and stage == "fit":
            log.info("CUDA graphs: not used with %s, so every kernel is launched separately", reason)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._is_current = False

    on_validation_start = on_test_start = on_train_epoch_start

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._capture(trainer, pl_module, batch, "captured", CapturedStep, trainer.precision_plugin.train_step_context)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        context = trainer.precision_plugin.val_step_context
        self._capture(trainer, pl_module, batch, "captured_evaluation", CapturedEvaluation, context)

    on_test_batch_start = on_validation_batch_start

    def teardown(self, trainer, pl_module, stage: str) -> None:
        pl_module.captured = pl_module.captured_evaluation = None
        self._possible = False

    @staticmethod
    def _on_gpu(trainer) -> bool:
        return trainer.strategy.root_device.type == "cuda"

    def _reason_against(self, trainer, pl_module) -> str | None:
        """Return what prevents steps from being captured, or None."""
        if self.enabled is False:
            return "trainer.cuda_graphs=false"
        if trainer.world_size > 1:
            return "several processes"
        if trainer.accumulate_grad_batches > 1:  # a replay overwrites the gradients of the previous batch
            return f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
        precision = trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:  # the loss is scaled after the step
            return f"trainer.precision={precision.precision}"
        if trainer._detect_anomaly:
            return "trainer.detect_anomaly=true"
        unknown = {type(module).__module__.split(".")[0] for module in pl_module.modules()} - KNOWN
        if self.enabled == "auto" and unknown:
            return f"modules of {', '.join(sorted(unknown))} unless trainer.cuda_graphs=true"
        return None

    def _capture(self, trainer, pl_module, batch: dict, name: str, kind: type, context: Callable) -> None:
        """Make the classifier's attribute `name` replay this batch, if it is a full one."""
        if not self._possible or len(batch["labels"]) < trainer.datamodule.batch_size:
            return
        captured = getattr(pl_module, name)
        fits = captured is not None and captured.fits(batch)
        if fits and (self._is_current or captured.captured_of == state_of(pl_module)):
            self._is_current = True
            return
        setattr(pl_module, name, None)  # frees its memory before the next capture needs some
        del captured
        try:
            setattr(pl_module, name, kind(pl_module, batch, context))
            self._is_current = True
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._possible = False
            reason = str(error).splitlines()[0]
            log.warning("CUDA graphs: not used, since the step of a batch cannot be captured (%s)", reason)
