"""Where an epoch ends: with its last batch, or with the batch after which the training stops; and how far a training is."""

import math

from lightning.pytorch.callbacks import Timer


def ends_epoch(trainer) -> bool:
    """Return whether this training batch is the last one of its epoch, also where the training is stopped within it.

    In `on_train_batch_end`; a callback that stops the training may still come, and is known to those after it.
    """
    return trainer.is_last_batch or stops(trainer)


def stops(trainer) -> bool:
    """Return whether the training was asked to stop and may: trainer.min_epochs and min_steps hold it up."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def may_save(trainer, batch_idx: int) -> bool:
    """Return whether a checkpoint may be written after this training batch, in the middle of the epoch.

    Not where gradients were accumulated and not applied, since no checkpoint keeps them; nor where the epoch ends, whose
    own checkpoint comes after its validation.
    """
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not ends_epoch(trainer)


def steps_in_epoch(trainer) -> int:
    """Return the optimizer steps that were done of an epoch that resumes in its middle; 0 for any other."""
    if not trainer.fit_loop.restarting:
        return 0
    return (trainer.fit_loop.batch_idx + 1) // trainer.accumulate_grad_batches


def time_share(trainer) -> float | None:
    """Return the share of the training's time limit that is over, the same in all processes; None where it has none.

    Where trainer.min_epochs or min_steps hold it up, the share of these that is done, if that is smaller.
    """
    shares = [
        timer.time_elapsed() / ((timer.time_elapsed() + left_s) or 1)
        for timer in trainer.callbacks
        if isinstance(timer, Timer) and (left_s := timer.time_remaining()) is not None
    ]
    if not shares:
        return None
    least = trainer.min_steps or 0
    if trainer.fit_loop.min_epochs and trainer.num_training_batches < math.inf:  # which it is before training
        steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        least = max(least, trainer.fit_loop.min_epochs * steps)
    share = min(max(shares), trainer.global_step / least) if least else max(shares)
    return trainer.strategy.broadcast(share)


def epochs_in(trainer, fraction: float) -> int:
    """Return a share of the training's epochs, rounded down: of 90 epochs 0.7 are 63, where 0.7 * 90 is 62.99999999999999."""
    return int(round(fraction * trainer.max_epochs, 6))


def is_past(trainer, fraction: float) -> bool:
    """Return whether this epoch is after a share of the training: of its epochs, rounded down, or of its time limit."""
    return trainer.current_epoch >= epochs_in(trainer, fraction) or (time_share(trainer) or 0) > fraction
