import math

import pytest
import torch

from lightning_modules.optim import cosine, one_cycle, plateau


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)


@pytest.mark.parametrize(
    ("monitor", "values", "expected"),
    [
        # reduced once more than `patience` epochs went without improvement
        ("train/loss", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5]),
        ("val/loss", [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [1e-4] * 6),
        ("val/accuracy", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [1e-4] * 6),
        ("train/accuracy", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5]),
    ],
)
def test_plateau_by_a_literal_table(monitor, values, expected):
    sgd = optimizer()
    config = plateau(sgd, monitor=monitor, factor=0.1, patience=2)
    seen = []
    for value in values:
        config["scheduler"].step(value)
        seen.append(sgd.param_groups[0]["lr"])
    assert config["monitor"] == monitor and seen == pytest.approx(expected)


def test_the_study_s_log_is_reproduced_by_patience_7():
    """Its learning rate is 1e-4 for 40 epochs, 1e-5 from epoch 41, 1e-6 from epoch 49, if epoch 32 was the last to improve."""
    sgd = optimizer()
    scheduler = plateau(sgd, monitor="train/loss", factor=0.1, patience=7)["scheduler"]
    rates = []
    for epoch in range(1, 51):
        rates.append(sgd.param_groups[0]["lr"])
        scheduler.step(100 - min(epoch, 32))
    assert rates == pytest.approx([1e-4] * 40 + [1e-5] * 8 + [1e-6] * 2)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step.*:UserWarning")
def test_cosine_by_its_formula():
    sgd = optimizer()
    scheduler = cosine(sgd, epochs=5)["scheduler"]
    seen = []
    for _ in range(5):
        seen.append(sgd.param_groups[0]["lr"])
        scheduler.step()
    assert seen == pytest.approx([1e-4 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)])


def test_one_cycle_rises_along_a_line_and_falls_along_half_a_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    config = one_cycle(optimizer, steps=10, warmup_fraction=0.2)
    assert config["interval"] == "step"
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step()
    falling = [0.4 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates == pytest.approx([0.4 / 3, 0.8 / 3, *falling])
    with pytest.raises(ValueError, match=r"scheduler\.warmup_fraction=1"):
        one_cycle(optimizer, steps=10, warmup_fraction=1)
