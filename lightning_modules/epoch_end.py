"""Where an epoch ends (its last batch, or the batch after which training stops), and how far training is."""

import math

from lightning.pytorch.callbacks import Timer


def ends_epoch(trainer) -> bool:
    """Return whether this training batch is the last of its epoch, including when training stops in the middle of it.

    For `on_train_batch_end`. A later callback may still stop the training; only callbacks after that one see it.
    """
    return trainer.is_last_batch or stops(trainer)


def stops(trainer) -> bool:
    """Return whether training was asked to stop and may do so; trainer.min_epochs and min_steps can delay it."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def may_save(trainer, batch_idx: int) -> bool:
    """Return whether a checkpoint may be written after this training batch, in the middle of the epoch.

    It may not while accumulated gradients are not applied, since no checkpoint keeps them, nor at the end of the epoch, which
    has its own checkpoint after validation.
    """
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not ends_epoch(trainer)


def steps_in_epoch(trainer) -> int:
    """Return the optimizer steps already done in an epoch that resumes in its middle; 0 for other epochs."""
    if not trainer.fit_loop.restarting:
        return 0
    return (trainer.fit_loop.batch_idx + 1) // trainer.accumulate_grad_batches


def time_share(trainer) -> float | None:
    """Return the share of the training's time limit that is over, the same in all processes; None without a limit.

    If trainer.min_epochs or min_steps extend training beyond it, return the share of these that is done if it is smaller.
    """
    shares = [
        timer.time_elapsed() / ((timer.time_elapsed() + left_s) or 1)
        for timer in trainer.callbacks
        if isinstance(timer, Timer) and (left_s := timer.time_remaining()) is not None
    ]
    if not shares:
        return None
    least = trainer.min_steps or 0
    if trainer.fit_loop.min_epochs and trainer.num_training_batches < math.inf:  # infinite before training
        steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        least = max(least, trainer.fit_loop.min_epochs * steps)
    share = min(max(shares), trainer.global_step / least) if least else max(shares)
    return trainer.strategy.broadcast(share)


def epochs_in(trainer, fraction: float) -> int:
    """Return a share of the training's epochs, rounded down: 0.7 of 90 is 63, although 0.7 * 90 is 62.99999999999999."""
    return int(round(fraction * trainer.max_epochs, 6))


def is_past(trainer, fraction: float) -> bool:
    """Return whether this epoch is past a share of training: of its epochs, rounded down, or of its time limit."""
    return trainer.current_epoch >= epochs_in(trainer, fraction) or (time_share(trainer) or 0) > fraction
