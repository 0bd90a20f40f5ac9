"""The random numbers of a training step: other ones in each batch, and the same ones when it is done again."""

import os
import signal
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from callbacks.step_seed import StepSeed
from tests.support.helpers import SIMPLE_CNN

# Twelve batches an epoch: steps of five, five and the remaining two
ACCUMULATED = (
    *SIMPLE_CNN,
    "datamodule.batch_size=2",
    "trainer.accumulate_grad_batches=5",
    "stages=[fit]",
    "logger=none",
)


class Draws(L.Callback):
    """Keep what a dropout would draw in each batch, by epoch and batch."""

    drawn: dict[tuple[int, int], float] = {}
    stop_at: tuple[int, int] | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        with torch.random.fork_rng():
            self.drawn[trainer.current_epoch, batch_idx] = torch.rand(1).item()
        if self.stop_at == (trainer.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGTERM)


MINE = f"+callbacks.mine._target_={Draws.__module__}.Draws"


@pytest.mark.thorough
def test_accumulated_batches_draw_other_numbers_also_after_resuming_between_them(train, monkeypatch):
    monkeypatch.setattr(Draws, "drawn", straight := {})
    assert train(*ACCUMULATED, MINE).status == 0
    assert list(straight) == [(epoch, batch) for epoch in (0, 1) for batch in range(12)]
    assert len(set(straight.values())) == 24

    monkeypatch.setattr(Draws, "drawn", before := {})
    monkeypatch.setattr(Draws, "stop_at", (1, 6))  # the second batch of a step: ends with this step, at batch 9
    every = "callbacks.last_checkpoint.every_n_train_steps=1"
    stopped = train(*ACCUMULATED, MINE, every)
    assert stopped.status == 128 + signal.SIGTERM, stopped.err
    monkeypatch.setattr(Draws, "drawn", after := {})
    monkeypatch.setattr(Draws, "stop_at", None)
    resumed = train(
        f"ckpt_path={stopped.folder}/checkpoints/last.ckpt", MINE, "stages=[fit]", small=False, to=stopped.folder
    )
    assert resumed.status == 0, resumed.err
    assert before | after == straight and list(after) == [(1, 10), (1, 11)]


def test_every_batch_of_every_step_and_process_has_a_key_of_its_own():
    """Step 1 with batch 11 is not step 11 with batch 1, nor 1 with 1 in process 1."""
    drawn = {}
    for accumulate in (1, 12):
        for step in range(13):
            for rank in range(3):
                for batch in range(accumulate):
                    trainer = SimpleNamespace(global_step=step, global_rank=rank, accumulate_grad_batches=accumulate)
                    StepSeed(seed=7).on_train_batch_start(trainer, None, None, batch + accumulate * step)
                    drawn.setdefault(torch.initial_seed(), set()).add((step, rank, batch))
    assert len(drawn) == 13 * 3 * 12
    assert all(
        len(keys) == 1 for keys in drawn.values()
    )  # the first batch of a step has the same key without accumulation
