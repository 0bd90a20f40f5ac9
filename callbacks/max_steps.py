"""End the training after so many optimizer steps, in the middle of an epoch too."""

import logging

import lightning as L

from lightning_modules.epoch_end import steps_in_epoch

log = logging.getLogger(__name__)


class MaxSteps(L.Callback):
    """Stop after `max_steps` optimizer steps; the epoch that is cut ends as any other, with its validation.

    Not the trainer's max_steps: with it Lightning does not validate at the end, and trains an epoch of nothing where a run
    resumes from the checkpoint of a whole epoch.

    Args:
        max_steps: of the optimizer, over the whole training.
    """

    def __init__(self, *, max_steps: int):
        self.max_steps = max_steps

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage == "fit":
            pl_module.max_steps = self.max_steps  # where its schedule ends

    def on_train_start(self, trainer, pl_module) -> None:
        to_come = max(self.max_steps - trainer.global_step, 0) + steps_in_epoch(trainer)
        steps_per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        epochs = trainer.current_epoch + -(-to_come // steps_per_epoch)
        if epochs > trainer.max_epochs:
            log.warning(
                "trainer.max_steps=%d: trainer.max_epochs=%d ends the training before, at %d steps an epoch; use %d epochs",
                self.max_steps, trainer.max_epochs, steps_per_epoch, epochs,
            )  # fmt: skip
        else:
            trainer.fit_loop.max_epochs = epochs  # what happens after a share of the epochs counts by it
        self._stop_at_the_end(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._stop_at_the_end(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.global_step >= self.max_steps:
            log.info("stopped: trainer.max_steps=%d", self.max_steps)

    def _stop_at_the_end(self, trainer) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.fit_loop.min_epochs = None  # which would have it train on
            trainer.should_stop = True
