"""Distillation: a trained network teaches the one that is trained."""

import logging
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.linear_probe import unaugmented_batches
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from lightning_modules.checkpoint import load_classifier
from lightning_modules.losses import DistillationLoss

log = logging.getLogger(__name__)


class Distillation(L.Callback):
    """Add the distance to a teacher's predictions for the same images to the loss: Hinton et al. 2015, arXiv:1503.02531.

    The teacher sees every augmented and mixed view, which matters (Beyer et al. 2022, arXiv:2106.05237). It sees each image
    only once, without augmentation, if neither augmentation nor batch transform changes anything or `cache_teacher` is true.

    Args:
        teacher: checkpoint of a classifier with the same classes; None: no teacher.
        temperature: T, for teacher and student.
        weight: the teacher's share of the loss.
        cache_teacher: whether the teacher sees each image only once; None: if nothing changes the images.
    """

    def __init__(self, *, teacher: str | None, temperature: float, weight: float, cache_teacher: bool | None = None):
        self.enabled = teacher is not None
        self.path = teacher
        self.cache_teacher = cache_teacher
        self.loss = DistillationLoss(temperature=temperature, weight=weight)

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        try:
            self.teacher = load_classifier(Path(self.path))
        except UserError as error:
            raise UserError(f"teacher={error}") from error
        if self.teacher.classes != pl_module.classes:
            raise UserError(
                f"teacher={self.path}: has the classes {', '.join(self.teacher.classes)}, but the data has "
                f"{', '.join(pl_module.classes)}; use a teacher of the same classes"
            )
        mean, std = (torch.tensor(pl_module.hparams[key]).view(3, 1, 1) for key in ("mean", "std"))
        own_mean, own_std = (torch.tensor(self.teacher.hparams[key]).view(3, 1, 1) for key in ("mean", "std"))
        # A buffer, so that it moves with the teacher: converts this run's normalization to the teacher's
        self.teacher.register_buffer("renormalization", torch.stack([std / own_std, (mean - own_mean) / own_std]))
        if (theirs := self.teacher.hparams["interpolation"]) != (ours := pl_module.hparams["interpolation"]):
            log.warning(
                "teacher=%s: was trained on images that were resized %s, but here they are %s", self.path, theirs, ours
            )
        if (theirs := self.teacher.hparams["fit"]) != (ours := pl_module.hparams["fit"]):
            raise UserError(
                f"teacher={self.path}: was trained with datamodule.fit={theirs}, but this run has {ours}; use a teacher "
                f"with the same fit, or datamodule.fit={theirs}"
            )
        pl_module.distillation = self.loss

    def on_train_start(self, trainer, pl_module) -> None:
        self.teacher.to(pl_module.device).eval()
        mixes = trainer.datamodule.batch_transform is not None
        if mixes and self.cache_teacher:
            raise UserError(
                "callbacks.distillation.cache_teacher=true with a batch_transform: the teacher would not see the mixed images; "
                "use callbacks.distillation.cache_teacher=null or batch_transform=none"
            )
        streams = trainer.datamodule.stream is not None
        if streams and self.cache_teacher:
            raise UserError(
                "callbacks.distillation.cache_teacher=true with streamed training images: not all are known in advance; use "
                "callbacks.distillation.cache_teacher=null"
            )
        changes_nothing = trainer.datamodule.augmentation.changes_nothing and not mixes and not streams
        cached = changes_nothing if self.cache_teacher is None else self.cache_teacher
        self.cache = self._predict_all(trainer, pl_module) if cached else None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        cached = self.cache is not None
        batch["teacher_logits"] = self.cache[batch["rows"]] if cached else self._predict(batch["pixels"])

    @torch.no_grad()
    def _predict_all(self, trainer, pl_module) -> Tensor:
        """Return the teacher's logits (images, K), indexed by row; NaN for images outside the training split."""
        shape = (len(trainer.datamodule.pixel_cache), len(self.teacher.classes))
        logits = torch.full(shape, torch.nan, device=pl_module.device)
        for batch in unaugmented_batches(trainer, pl_module):
            logits[batch["rows"]] = self._predict(batch["pixels"])
        return logits

    @torch.no_grad()
    def _predict(self, pixels: Tensor) -> Tensor:
        """Return the teacher's logits (B, K) for normalized images (B, 3, H, W), resized to its size if needed."""
        side = self.teacher.hparams["image_size"]
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
        scale, shift = self.teacher.renormalization
        return self.teacher(pixels * scale + shift).float()


def check_teacher(teacher: str, record: RunRecord) -> None:
    """Warn of a teacher that may have trained on val or test images, which it would leak, or that differs from before.

    Raises:
        UserError: there is no such checkpoint, or its run has a malformed record.
    """
    if not Path(teacher).is_file():
        raise UserError(f"teacher={teacher}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt")
    began = record.previous.model if record.resumes else None
    if began and began.teacher_digest not in (None, record.model.teacher_digest):
        log.warning("teacher=%s: is not the file with which this training began", teacher)
    folder = RunFolder.of_checkpoint(Path(teacher))
    data = RunRecord.read(folder).data if folder and folder.record.is_file() else None
    if data is None:
        reason = "has no record of its training images"
    elif data.fingerprint_val_test != record.data.fingerprint_val_test:
        reason = "was trained with other val and test images"
    else:
        return
    log.warning(
        "teacher=%s: %s, so it may have trained on images of val or test of this run; train it on the same splits",
        teacher, reason,
    )  # fmt: skip
