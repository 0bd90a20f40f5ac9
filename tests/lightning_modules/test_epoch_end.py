import math
from datetime import timedelta
from fractions import Fraction
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Timer

from lightning_modules.epoch_end import epochs_in, is_past, may_save, steps_in_epoch, time_share


class Clock(Timer):
    """Of 100 seconds, at a given one."""

    def __init__(self, elapsed, limit=100):
        super().__init__(None if limit is None else timedelta(seconds=limit))
        self.elapsed = elapsed

    def time_elapsed(self, stage=None):
        return self.elapsed


def trainer(*clocks, **changes):
    """Return what these functions read of a trainer."""
    loop = {name: changes.pop(name) for name in ("min_epochs", "restarting", "batch_idx") if name in changes}
    usual = {"callbacks": [object(), *clocks], "min_steps": None, "global_step": 0, "num_training_batches": 10,
             "accumulate_grad_batches": 1, "current_epoch": 0, "max_epochs": 10, "is_last_batch": False, "should_stop": False,
             "strategy": SimpleNamespace(broadcast=lambda value: value)}  # fmt: skip
    loop = SimpleNamespace(
        **{"min_epochs": None, "restarting": False, "batch_idx": -1, "_can_stop_early": True, **loop}
    )
    return SimpleNamespace(**usual | changes, fit_loop=loop)


def test_a_share_of_the_epochs_is_that_of_whole_percents():
    for percent in range(100):
        for epochs in (*range(1, 60), 90, 100, 180, 300, 1000):
            exact = math.floor(Fraction(percent, 100) * epochs)
            assert epochs_in(trainer(max_epochs=epochs), percent / 100) == exact, (percent, epochs)


@pytest.mark.parametrize(("epoch", "elapsed", "past"), [
    (2, 0, False), (3, 0, True), (2, 31, True), (2, 30, False), (0, 99, True), (9, 0, True),
])  # fmt: skip
def test_a_share_of_the_training_is_over_by_its_epochs_or_its_time(epoch, elapsed, past):
    assert is_past(trainer(Clock(elapsed), current_epoch=epoch), 0.3) == past
    assert is_past(trainer(current_epoch=epoch), 0.3) == (epoch >= 3)


def test_the_share_of_the_time_is_the_largest_and_waits_for_the_least_epochs_and_steps():
    assert time_share(trainer()) is None and time_share(trainer(Clock(50, limit=None))) is None
    assert time_share(trainer(Clock(0, limit=0))) == 0
    assert time_share(trainer(Clock(20))) == pytest.approx(0.2)
    assert time_share(trainer(Clock(20), Clock(30), Clock(90, limit=None))) == pytest.approx(0.3)
    # 25 batches are 7 steps of 4, so 2 epochs are 14
    epochs = {"min_epochs": 2, "num_training_batches": 25, "accumulate_grad_batches": 4}
    for changes, least in (
        ({"min_steps": 40}, 40), (epochs, 14), (epochs | {"min_steps": 40}, 40), (epochs | {"min_steps": 5}, 14),
    ):  # fmt: skip
        for step in (0, 3, 13, 14, 41):
            expected = min(0.9, step / least)
            assert time_share(trainer(Clock(90), Clock(5), global_step=step, **changes)) == pytest.approx(expected)
    before_training = trainer(Clock(90), min_epochs=2, num_training_batches=math.inf)
    assert time_share(before_training) == pytest.approx(0.9)


def test_a_checkpoint_within_an_epoch_comes_after_a_whole_step():
    saved = [index for index in range(10) if may_save(trainer(accumulate_grad_batches=3), index)]
    assert saved == [2, 5, 8]
    assert not may_save(trainer(is_last_batch=True), 4) and not may_save(trainer(should_stop=True), 4)
    done = [
        steps_in_epoch(trainer(accumulate_grad_batches=3, batch_idx=index, restarting=True)) for index in range(-1, 8)
    ]
    assert done == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert steps_in_epoch(trainer(batch_idx=5)) == 0
