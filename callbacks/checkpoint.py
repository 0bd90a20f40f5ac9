"""The checkpoints of a run: the best epoch by a validation metric, and the last state."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from common.atomic_io import write_bytes
from common.errors import UserError
from lightning_modules.epoch_end import epochs_in, is_past, may_save, time_share
from lightning_modules.optim import direction

log = logging.getLogger(__name__)

MOST = 1_000_000_000  # steps or minutes between two checkpoints; a timedelta holds no more than 1.4e12 minutes


class SingleFileCheckpoint(ModelCheckpoint):
    """Keep one checkpoint with a fixed name in the run's own folder.

    When Lightning resumes, it takes file names from the checkpoint and removes these files, in the run's former folder or
    wherever an untrusted checkpoint points. This class ignores the names and looks for the file in the run's folder. If the run
    resumes from a checkpoint in another folder, the file is copied from there.
    """

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._beside, self._copies = Path(trainer.ckpt_path).parent, trainer.is_global_zero  # not known in setup yet

    def load_state_dict(self, state_dict: dict) -> None:
        score = state_dict["best_model_score"]
        if score is not None and not (isinstance(score, Tensor) and score.numel() == 1):
            raise UserError(f"best_model_score of {self.filename}.ckpt is not a single number")
        found = self._find(copy=score is not None)
        if score is not None and not found:
            log.warning("%s.ckpt is missing: the best of the remaining epochs replaces it", self.filename)
        score = score if found else None
        own = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), found)
        own |= {"best_k_models": {} if score is None else {found: score}, "best_model_score": score}
        super().load_state_dict({**state_dict, **own, "dirpath": self.dirpath})

    def _find(self, copy: bool) -> str:
        """Return the path of the file in the run's folder, copied if needed; empty if there is none."""
        own = Path(self.dirpath, f"{self.filename}.ckpt")
        if own.is_file():
            return str(own)
        if not copy or not (self._beside / own.name).is_file():
            return ""
        own.parent.mkdir(parents=True, exist_ok=True)
        for name in (own.with_suffix(".safetensors").name, own.name) if self._copies else ():
            if (self._beside / name).is_file():
                write_bytes(own.with_name(name), (self._beside / name).read_bytes())
        return str(own)


class BestCheckpoint(SingleFileCheckpoint):
    """Keep the epoch with the best `monitor` as best.ckpt.

    With few validation images, several epochs often have equally many correct ones. The one with the lowest validation loss is
    kept, and of equal losses the earliest; keeping the earliest of all would usually keep one that has learned less.

    Args:
        monitor: metric of the validation images; f1 and auroc are means over the classes.
        select_after_fraction: share of the epochs, or of the time limit, after which the choice starts over; until then, the
            best so far is kept. Where the learning rate falls to zero, the last epochs are the good ones, and few images cannot
            tell which of all epochs is better.
    """

    def __init__(
        self,
        *,
        monitor: Literal["val/accuracy", "val/loss", "val/balanced_accuracy", "val/f1", "val/auroc"] = "val/accuracy",
        select_after_fraction: float = 0,
    ):
        if not 0 <= select_after_fraction < 1:
            raise UserError(
                f"callbacks.best_checkpoint.select_after_fraction={select_after_fraction}: use a share from 0 to below 1"
            )
        self.select_after_fraction = select_after_fraction
        self.best_loss: float | None = None  # val/loss of best.ckpt; None: unknown, as in checkpoints of older versions
        self.best_epoch: int | None = None  # from 0; None: there is none, or it is unknown, as in older versions
        self.started_over = False  # whether best.ckpt is of an epoch after select_after_fraction
        self._restored = False  # whether the state is from a checkpoint chosen by the same monitor
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=direction(monitor),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step > 0 and not self._restored:
            log.warning(
                "callbacks.best_checkpoint.monitor=%s: the checkpoint has no best epoch by this metric, so the "
                "best of the remaining epochs replaces best.ckpt", self.monitor,
            )  # fmt: skip
        # The number of epochs or the time limit may have changed
        late = (time_share(trainer) or 0) > self.select_after_fraction
        epoch = trainer.current_epoch - 1 if self.best_epoch is None else self.best_epoch
        start = epochs_in(trainer, self.select_after_fraction)
        self.started_over = epoch >= start or (self.started_over and late)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if "val" in pl_module.results:  # otherwise the metric is of an earlier epoch
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer, current: Tensor | None = None) -> bool:
        starts_over = not self.started_over and is_past(trainer, self.select_after_fraction)
        self.started_over |= starts_over
        loss = float(trainer.callback_metrics["val/loss"])
        is_best = starts_over or super().check_monitor_top_k(trainer, current) or self._wins_tie(trainer, current, loss)
        if is_best:
            self.best_loss, self.best_epoch = loss, trainer.current_epoch
        return is_best

    def _wins_tie(self, trainer, current: Tensor, loss: float) -> bool:
        wins = self.best_loss is not None and float(current) == float(self.best_model_score) and loss < self.best_loss
        return trainer.strategy.reduce_boolean_decision(wins)  # the same in all processes

    def state_dict(self) -> dict:
        own = {name: getattr(self, name) for name in ("best_loss", "best_epoch", "started_over")}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict) -> None:
        loss = state_dict.get("best_loss")
        if loss is not None and type(loss) is not float:
            raise UserError(f"best_loss of {self.filename}.ckpt is not a single number")
        epoch = state_dict.get("best_epoch")
        if epoch is not None and type(epoch) is not int:
            raise UserError(f"best_epoch of {self.filename}.ckpt is not a whole number")
        super().load_state_dict(state_dict)
        self.best_loss, self.best_epoch = loss, epoch
        self.started_over = state_dict.get("started_over") is True
        self._restored = True


class LastCheckpoint(SingleFileCheckpoint):
    """Keep everything needed to resume as last.ckpt, after each epoch. It comes after BestCheckpoint, to store its state.

    Args:
        every_n_train_steps: also save after this many optimizer steps; None: never.
        every_n_minutes: also save within an epoch, after this many minutes; None: never.
    """

    def __init__(self, *, every_n_train_steps: int | None = None, every_n_minutes: float | None = None):
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and not 0 < value <= MOST:
                raise UserError(
                    f"callbacks.last_checkpoint.{name}={value}: use more than 0, up to {MOST:,}, or null for never"
                )
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        # Set here, since ModelCheckpoint's constructor accepts only one trigger, and the end of each epoch is one
        self._every_n_train_steps = every_n_train_steps or 0
        self._train_time_interval = None if every_n_minutes is None else timedelta(minutes=every_n_minutes)
        self.before_save: Callable[[], None] = lambda: None  # set by the engine

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if may_save(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _save_checkpoint(self, trainer, filepath: str) -> None:
        self.before_save()
        super()._save_checkpoint(trainer, filepath)

    def save_now(self, trainer) -> None:
        """Write last.ckpt in the middle of an epoch."""
        self._save_topk_checkpoint(trainer, {})
