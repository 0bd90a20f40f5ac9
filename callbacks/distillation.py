"""A trained network teaches the one that is trained."""

import logging
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.linear_probe import unaugmented_batches
from common.run_record import RunRecord, read_record
from engine.run.resume import run_of_checkpoint
from lightning_modules.checkpoint import load_classifier
from lightning_modules.losses import DistillationLoss as Loss

log = logging.getLogger(__name__)


class Distillation(L.Callback):
    """Adds to the loss what a teacher says of the same images: Hinton et al. 2015, arXiv:1503.02531.

    The teacher sees every augmented view (Beyer et al. 2022, arXiv:2106.05237, find that to matter), or each image once,
    as it is, where the augmentation changes nothing or `cache_teacher` says so.

    Args:
        teacher: checkpoint of a classifier of the same classes; None for none.
        temperature: of both, T.
        weight: share of the teacher in the loss.
        cache_teacher: None: where the augmentation changes nothing.
    """

    def __init__(self, *, teacher: str | None, temperature: float, weight: float, cache_teacher: bool | None = None):
        self.enabled = teacher is not None
        self.path = teacher
        self.cache_teacher = cache_teacher
        self.loss = Loss(temperature=temperature, weight=weight)

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        try:
            self.teacher = load_classifier(Path(self.path))
        except ValueError as error:
            raise ValueError(f"teacher={error}") from error
        if self.teacher.classes != pl_module.classes:
            raise ValueError(
                f"teacher={self.path}: knows the classes {', '.join(self.teacher.classes)}, the data has "
                f"{', '.join(pl_module.classes)}; take a teacher of the same classes"
            )
        for key in ("mean", "std"):
            if self.teacher.hparams[key] != pl_module.hparams[key]:
                raise ValueError(f"teacher={self.path}: normalizes images with another {key}; take another teacher")
        pl_module.distillation = self.loss

    def on_train_start(self, trainer, pl_module) -> None:
        self.teacher.to(pl_module.device).eval()
        cached = trainer.datamodule.augmentation.changes_nothing if self.cache_teacher is None else self.cache_teacher
        self.known = self._ask_once(trainer, pl_module) if cached else None

    @torch.no_grad()
    def _ask_once(self, trainer, pl_module) -> Tensor:
        """The teacher's logits (images, K) of every training image by its row; NaN for other images."""
        known = torch.full(
            (len(trainer.datamodule.store), len(self.teacher.classes)), torch.nan, device=pl_module.device
        )
        for batch in unaugmented_batches(trainer, pl_module):
            known[batch["rows"]] = self._ask(batch["pixels"]).float()
        return known

    @torch.no_grad()
    def _ask(self, pixels: Tensor) -> Tensor:
        side = self.teacher.hparams["image_size"]
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
        return self.teacher(pixels)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        asked = self.known is None
        batch["teacher_logits"] = self._ask(batch["pixels"]).float() if asked else self.known[batch["rows"]]


def warn_of_other_splits(teacher: str, record: RunRecord) -> None:
    """A teacher that has seen the test images in its training gives them away."""
    if not Path(teacher).is_file():
        raise ValueError(f"teacher={teacher}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt")
    folder = run_of_checkpoint(Path(teacher))
    of_teacher = (read_record(folder / "result.json").get("data") or {}) if folder else {}
    if of_teacher.get("fingerprint_val_test") != record.data["fingerprint_val_test"]:
        log.warning(
            "teacher=%s: %s, so it may have learnt from images that val or test measure here; train it on the same splits",
            teacher,
            "was trained with other val and test images"
            if of_teacher
            else "does not say on which images it was trained",
        )
