"""Which checkpoints a run keeps: the best by a validation quantity, and the last whole state."""

import logging
import time
from pathlib import Path
from typing import Literal

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

log = logging.getLogger(__name__)


class SingleFileCheckpoint(ModelCheckpoint):
    """A checkpoint of one name, in the run's own folder.

    Lightning takes names of files from the checkpoint that it goes on from, and removes files by them: names of where the
    run lay before, or a stranger's. Here they are never taken; the file is looked for here, then beside that checkpoint.
    """

    def setup(self, trainer, pl_module, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        places = [Path(self.dirpath), *([Path(trainer.ckpt_path).parent] if trainer.ckpt_path else [])]
        self._found = next((str(f) for p in places if (f := p / f"{self.filename}.ckpt").is_file()), "")

    def load_state_dict(self, state_dict: dict) -> None:
        score = state_dict["best_model_score"]
        if score is not None and not (isinstance(score, Tensor) and score.numel() == 1):
            raise ValueError(f"best_model_score of {self.filename}.ckpt is no number")
        if score is not None and not self._found:
            log.warning("%s.ckpt is gone: the best of the epochs to come takes its place", self.filename)
        score = score if self._found else None
        own = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), self._found)
        own |= {"best_k_models": {} if score is None else {self._found: score}, "best_model_score": score}
        super().load_state_dict({**state_dict, **own, "dirpath": self.dirpath})


class BestCheckpoint(SingleFileCheckpoint):
    """checkpoints/best.ckpt: the epoch with the best `monitor`; the earliest one wins a tie.

    Args:
        monitor: a quantity of the validation images.
        select_after_fraction: share of the epochs that pass before one is chosen for good; until then the best so far is kept. Where the
            learning rate falls to zero the last epochs are the good ones, and few images cannot tell which epoch is better.
    """

    def __init__(
        self, *, monitor: Literal["val/accuracy", "val/loss"] = "val/accuracy", select_after_fraction: float = 0
    ):
        if not 0 <= select_after_fraction < 1:
            raise ValueError(
                f"callbacks.best_checkpoint.select_after_fraction={select_after_fraction}: use a share from 0 to below 1"
            )
        self.select_after_fraction = select_after_fraction
        super().__init__(
            filename="best",
            monitor=monitor,
            mode="min" if monitor.endswith("loss") else "max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def check_monitor_top_k(self, trainer, current: Tensor | None = None) -> bool:
        takes_over = trainer.current_epoch == int(self.select_after_fraction * trainer.max_epochs)
        return takes_over or super().check_monitor_top_k(trainer, current)


class LastCheckpoint(SingleFileCheckpoint):
    """checkpoints/last.ckpt: everything that going on needs, after each epoch. It comes after Best, whose state it holds.

    Args:
        every_n_train_steps: also after so many optimizer steps; None: never.
        every_n_minutes: also after so many minutes in an epoch; None: never.
    """

    def __init__(self, *, every_n_train_steps: int | None = None, every_n_minutes: float | None = None):
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"callbacks.checkpoint.{name}={value}: use more than 0, or null for never")
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.steps = every_n_train_steps
        self.seconds = None if every_n_minutes is None else 60 * every_n_minutes
        self._saved_at = 0.0

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch:  # the epoch's own checkpoint comes soon, with its validation
            return
        by_steps = self.steps and trainer.global_step % self.steps == 0
        by_time = self.seconds and trainer.strategy.broadcast(time.monotonic() - self._saved_at >= self.seconds)
        if by_steps or by_time:
            self.save_now(trainer)

    def save_now(self, trainer) -> None:
        """Writes last.ckpt in the middle of an epoch."""
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
        self._saved_at = time.monotonic()
