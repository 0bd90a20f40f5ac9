"""callbacks=ema: the average is what is validated, kept, tested and recorded, and resuming it equals never having stopped."""

import functools
import os
import signal

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from callbacks.ema import average_weights
from tests.support.helpers import SIMPLE_CNN, at_step, outcome, read_csv

EMA = ("callbacks=ema", "callbacks.ema.decay=0.3", *SIMPLE_CNN, "callbacks.best_checkpoint.monitor=val/loss")


class Weights(L.Callback):
    """Keep the weights after each step."""

    made: list["Weights"] = []

    def __init__(self):
        self.steps = []
        self.made.append(self)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def state(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_the_average_is_that_of_the_formula_and_best_ckpt_is_what_was_validated(train, tmp_path):
    mine = f"+callbacks.mine._target_={Weights.__module__}.Weights"
    ran = train(*EMA, "trainer.max_epochs=4", "optimizer.lr=0.0003", mine)
    assert ran.status == 0, ran.err
    steps = next(each.steps for each in Weights.made if each.steps)
    average = steps[0]
    averages = [average]
    for n, weights in enumerate(steps[1:], 1):
        decay = {1: 2 / 11, 2: 3 / 12}.get(n, 0.3)  # 4 / 13 would be more
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
        averages.append(average)
    best = ran.record.best
    for name, step in (("last", 12), ("best", 3 * best.epoch)):
        found = state(ran.folder, name)
        for key, value in averages[step - 1].items():
            torch.testing.assert_close(found["state_dict"][key], value)
            assert torch.equal(found["current_model_state"][key], steps[step - 1][key])
    rows = read_csv(ran.folder / "metrics.csv")
    losses = [float(row["val/loss"]) for row in rows]
    assert best.value == min(losses)
    assert ran.record.val.loss == pytest.approx(best.value, rel=1e-6)
    best_file = ran.folder / "checkpoints" / "best.ckpt"
    place = tmp_path / "again"
    again = train("stages=[test]", f"ckpt_path={best_file}", mine, f"hydra.run.dir={place}", small=False, to=place)
    assert again.status == 0, again.err
    assert again.record.test.loss == ran.record.test.loss


def test_evaluation_is_of_best_ckpt_where_that_is_not_the_last_average(train, given):
    given(accuracy=[0.7, 0.9, 0.8, 0.8])
    ran = train(
        *EMA[:-1], "trainer.max_epochs=4", "optimizer.lr=0.0003", "callbacks.best_checkpoint.monitor=val/accuracy"
    )
    assert ran.status == 0, ran.err
    losses = [float(row["val/loss"]) for row in read_csv(ran.folder / "metrics.csv")]
    assert ran.record.best.epoch == 2 and losses[3] < 0.99 * losses[1]
    assert ran.record.val.loss == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.thorough
def test_interrupted_in_the_middle_and_resumed_it_has_the_same_bits(train, monkeypatch):
    straight = train(*EMA)
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*EMA)
    last = f"ckpt_path={stopped.folder / 'checkpoints' / 'last.ckpt'}"
    once_more = train(last, small=False, to=stopped.folder)
    assert (stopped.status, once_more.status) == (143, 143), once_more.err
    ran = train(last, small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(ran.folder)
    for key in ("current_model_state", "averaging_state"):
        expected, found = (state(folder, "last")[key] for folder in (straight.folder, ran.folder))
        assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_the_average_is_that_of_the_formula_from_the_first_step_on(decay):
    """By torch's AveragedModel, which Lightning's callback holds: decays 2/11, 3/12, 4/13, ..., up to this one."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2)
    averaged, expected = AveragedModel(layer, avg_fn=functools.partial(average_weights, decay=decay)), None
    for n in range(120):
        weights = torch.randn(2, 3, generator=generator)
        with torch.no_grad():
            layer.weight.copy_(weights)
        averaged.update_parameters(layer)
        share = min(decay, (1 + n) / (10 + n))
        expected = weights.double() if n == 0 else share * expected + (1 - share) * weights.double()
        torch.testing.assert_close(averaged.module.weight.double(), expected, rtol=0, atol=1e-5)
