"""End the training after a number of optimizer steps, even in the middle of an epoch."""

import logging

import lightning as L

from lightning_modules.epoch_end import steps_in_epoch

log = logging.getLogger(__name__)


class MaxSteps(L.Callback):
    """Stop after `max_steps` optimizer steps; a shortened epoch ends like any other, with its validation.

    This replaces the trainer's max_steps, with which Lightning does not validate at the end, and trains an empty epoch where a
    run resumes from the checkpoint of a whole epoch.

    Args:
        max_steps: optimizer steps of the whole training.
    """

    def __init__(self, *, max_steps: int):
        self.max_steps = max_steps

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage == "fit":
            pl_module.max_steps = self.max_steps  # the schedule ends there

    def on_train_start(self, trainer, pl_module) -> None:
        to_come = max(self.max_steps - trainer.global_step, 0) + steps_in_epoch(trainer)
        steps_per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        epochs = trainer.current_epoch + -(-to_come // steps_per_epoch)
        if epochs > trainer.max_epochs:
            log.warning(
                "trainer.max_steps=%d: trainer.max_epochs=%d ends the training earlier, with %d steps per epoch; use %d epochs",
                self.max_steps, trainer.max_epochs, steps_per_epoch, epochs,
            )  # fmt: skip
        else:
            trainer.fit_loop.max_epochs = epochs  # whatever happens after a share of the epochs counts by this number
        self._stop_at_the_end(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._stop_at_the_end(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.global_step >= self.max_steps:
            log.info("stopped: trainer.max_steps=%d", self.max_steps)

    def _stop_at_the_end(self, trainer) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.fit_loop.min_epochs = None  # it would continue the training
            trainer.should_stop = True
