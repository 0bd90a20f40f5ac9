"""A last.ckpt whose training state is malformed is named in one line, before anything is trained."""

import shutil
from collections import OrderedDict

import pytest
import torch

from callbacks.epoch_logger import EpochLogger
from common.errors import UserError
from common.run_folder import RunFolder
from engine.run.checkpoint_io import TRAINING, intact_checkpoint
from tests.support.helpers import SIMPLE_CNN, Killed, at_step

ODD = (None, True, -1.5, "", "x" * 10_000, b"x", (), [1], [[1]], [{}], {1}, {"a": 1}, {"a": {}}, OrderedDict(a=1))
WITHIN = {
    "loops": ({"a": {"b": 1}}, {"fit_loop": {"epoch_progress": {"current": {"completed": "x"}}}}),
    "callbacks": ({"EpochLogger": {"rows": [{"epoch": 1}]}}, {"EpochLogger": {"rows": 5}}),
    "optimizer_states": ([{"state": {}, "param_groups": []}], [{"state": 1, "param_groups": [{"lr": "x"}]}]),
    "train_sums": ([torch.zeros(1)], [torch.zeros(1, 5)] * 3, [torch.tensor(1.0)] * 3),
    "pytorch-lightning_version": ("x",),
}


@pytest.fixture
def last(train, monkeypatch, tmp_path):
    """last.ckpt of a run that was killed in the middle of its second epoch."""

    def kill():
        raise Killed

    at_step(monkeypatch, 5, kill)
    with pytest.raises(Killed):
        train(
            *SIMPLE_CNN,
            "callbacks.last_checkpoint.every_n_train_steps=2",
            "logger=none",
            "stages=[fit]",
        )
    (path,) = tmp_path.glob("run*/checkpoints/last.ckpt")
    RunFolder(path.parent.parent).previous_checkpoint.unlink()
    return path


@pytest.mark.thorough
def test_parts_of_another_type(last):
    usual = torch.load(last, weights_only=True)
    assert intact_checkpoint(last) == last
    for key, kind, _ in TRAINING:
        state = dict(usual)
        del state[key]
        odds = [odd for odd in ODD if not (kind is str and isinstance(odd, str) and odd)]
        for odd in ("gone", *odds):
            torch.save(state if odd == "gone" else state | {key: odd}, last)
            with pytest.raises(UserError, match=rf"^{last}: ") as caught:
                intact_checkpoint(last)
            message = str(caught.value)
            assert (
                message.isprintable()
                and len(message) < 500
                and (f"its {key} is" in message or "not a checkpoint" in message)
            )


@pytest.mark.slow
def test_what_is_wrong_within_them(train, last, tmp_path, monkeypatch):
    for name in ("on_train_start", "on_train_epoch_start"):
        monkeypatch.setattr(EpochLogger, name, lambda *_: pytest.fail("it was trained"))
    usual, run = torch.load(last, weights_only=True), last.parent.parent
    cases = [(key, odd) for key, odds in WITHIN.items() for odd in odds]
    for index, (key, odd) in enumerate(cases):
        copy = shutil.copytree(run, tmp_path / f"copy{index}")
        path = copy / "checkpoints" / "last.ckpt"
        torch.save(usual | {key: odd}, path)
        on = train(f"ckpt_path={path}", small=False, to=copy)
        assert on.status == 1 and on.err.count("\n") == 1, (key, odd, on.err)
        assert on.err.startswith(f"ERROR: ckpt_path={path}: the state of its training cannot be resumed"), (key, odd)
