import math

import pytest
import torch

from common.errors import UserError
from lightning_modules.optim import (
    check_made,
    cosine,
    discriminative_adamw,
    group_settings,
    one_cycle,
    plateau,
    restart_lr,
    restore_group_settings,
    restore_settings,
    same_kind,
    settings_of,
)


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


@pytest.mark.parametrize("factor", [-0.5, 0, 1])
def test_a_plateau_lowers_the_learning_rate_and_not_to_zero(factor):
    with pytest.raises(UserError, match=f"scheduler.factor={factor}: use a number above 0 and below 1"):
        plateau(optimizer(), monitor="val/loss", factor=factor, patience=1)
    with pytest.raises(UserError, match=r"scheduler\.patience=-1: use 0 or more"):
        plateau(optimizer(), monitor="val/loss", factor=0.1, patience=-1)


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        ([], torch.optim.Optimizer, "optimizer=.*made_by_me: makes a list, not a torch.optim.optimizer.Optimizer"),
        (None, torch.optim.lr_scheduler.LRScheduler, "makes a NoneType, not a torch.optim.lr_scheduler.LRScheduler"),
        (
            torch.optim.Optimizer([torch.nn.Parameter(torch.ones(1))], {"rate": 1}),
            torch.optim.Optimizer,
            "its groups have no lr",
        ),
        (
            torch.optim.Optimizer(
                [{"params": [torch.nn.Parameter(torch.ones(1))], **own} for own in ({"lr": 1}, {})], {}
            ),
            torch.optim.Optimizer,
            "its groups have no lr",
        ),
    ],
)
def test_what_is_no_optimizer_or_scheduler_is_named(made, kind, message):
    def made_by_me():
        return made

    with pytest.raises(UserError, match=message):
        check_made(made, kind, "optimizer", made_by_me)


def test_a_step_that_passes_its_arguments_on_is_taken():
    class Passing(torch.optim.SGD):
        def step(self, *arguments, **options):
            return super().step(*arguments, **options)

    made = Passing([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    check_made(made, torch.optim.Optimizer, "optimizer", Passing)


def test_a_factor_of_the_backbone_that_is_nan_is_named():
    options = {"lr": 0.1, "weight_decay": 0, "fused": False}
    with pytest.raises(UserError, match=r"optimizer\.backbone_lr_factor=nan: use 0 or more"):
        discriminative_adamw(torch.nn.Linear(1, 1), backbone_lr_factor=float("nan"), **options)


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


@pytest.mark.parametrize(("fraction", "expected"), [
    (0, [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 0]), (0.9, [0.2, 0.4, 0.6, 0.8, 0]),
])  # fmt: skip
def test_one_cycle_that_only_falls_or_only_rises(fraction, expected):
    sgd = optimizer()
    scheduler = one_cycle(sgd, steps=4, warmup_fraction=fraction)["scheduler"]
    rates = []
    for done in range(5):
        scheduler.move(done)
        rates.append(sgd.param_groups[0]["lr"] / 1e-4)
    assert rates == pytest.approx(expected)


def test_a_schedule_ends_at_zero_and_stays_there():
    for make in (lambda sgd: cosine(sgd, epochs=4), lambda sgd: one_cycle(sgd, steps=4, warmup_fraction=0.25)):
        sgd = optimizer()
        scheduler = make(sgd)["scheduler"]
        sgd.step()
        for _ in range(4):
            scheduler.step()
        assert sgd.param_groups[0]["lr"] == 0
        for _ in range(5):  # where torch's cosine rises again
            scheduler.step()
        assert sgd.param_groups[0]["lr"] == 0


def test_a_schedule_takes_its_length_from_the_training_and_not_from_a_checkpoint():
    before = cosine(optimizer(), epochs=4)["scheduler"]
    before.last_epoch = 4
    sgd = optimizer()
    resumed = cosine(sgd, epochs=8)["scheduler"]
    resumed.load_state_dict(before.state_dict())
    resumed.move(4)
    assert sgd.param_groups[0]["lr"] == pytest.approx(1e-4 * (1 + math.cos(math.pi * 4 / 8)) / 2)
    torch_s = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), T_max=4)  # of a checkpoint of an older version
    resumed.load_state_dict(torch_s.state_dict())
    resumed.move(6, 12)
    assert sgd.param_groups[0]["lr"] == pytest.approx(5e-5)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step.*:UserWarning")
def test_with_a_time_limit_the_larger_share_counts():
    clock = [0.0]
    sgd = optimizer()
    scheduler = cosine(sgd, epochs=1, max_steps=8, time_share=lambda: clock[0])["scheduler"]
    rates = []
    for share in (0, 0.1, 0.5, 0.5, 0.9, 1.2):
        clock[0] = share
        scheduler.step()
        rates.append(sgd.param_groups[0]["lr"])
    shares = [1 / 8, 2 / 8, 0.5, 0.5, 0.9, 1]
    assert rates == pytest.approx([1e-4 * (1 + math.cos(math.pi * share)) / 2 for share in shares])


def test_a_resumed_optimizer_has_the_settings_of_its_command():
    def adam(lr, decay):
        return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr, weight_decay=decay)

    before, resumed = adam(1e-3, 0.1), adam(1e-2, 0.2)
    group_settings(before)
    before.param_groups[0]["lr"] = 1e-4  # by a plateau
    settings = group_settings(resumed)
    resumed.load_state_dict(before.state_dict())
    restore_group_settings(resumed, settings)
    (group,) = resumed.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-3), 0.2)
    same = adam(1e-3, 0.1)
    settings = group_settings(same)
    same.load_state_dict(before.state_dict())
    restore_group_settings(same, settings)
    assert same.param_groups[0]["lr"] == 1e-4
    del same.param_groups[0]["initial_lr"]  # a checkpoint of an older version
    restore_group_settings(same, settings)
    assert same.param_groups[0]["lr"] == 1e-4
    same.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})  # by a callback
    restore_group_settings(same, settings)
    assert [group["lr"] for group in same.param_groups] == [1e-4, 0.5]


def test_another_scheduler_is_recognized_and_each_group_starts_from_its_own_learning_rate():
    def make(name):
        sgd = optimizer()
        return {
            "plateau": lambda: plateau(sgd, monitor="val/loss", factor=0.1, patience=1)["scheduler"],
            "cosine": lambda: cosine(sgd, epochs=2)["scheduler"],
            "step": lambda: torch.optim.lr_scheduler.StepLR(sgd, step_size=1),
            "exponential": lambda: torch.optim.lr_scheduler.ExponentialLR(sgd, gamma=0.1),
            "none": lambda: None,
        }[name]()

    names = ("plateau", "step", "exponential", "none")
    states = {name: (s := make(name)) and s.state_dict() for name in (*names, "cosine")}
    assert {(a, b) for a in names for b in states if same_kind(make(a), states[b])} == {(a, a) for a in names}
    assert all(
        same_kind(make("cosine"), state) for state in states.values()
    )  # which follows from nothing but the training
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 3e-4)]
    sgd = torch.optim.SGD(groups)
    cosine(sgd, epochs=2)["scheduler"].move(2)
    assert [group["lr"] for group in sgd.param_groups] == [0, 0]
    restart_lr(sgd)
    assert [group["lr"] for group in sgd.param_groups] == [1e-3, 3e-4]


def test_a_resumed_plateau_has_the_patience_of_its_command_and_another_scheduler_names_what_it_keeps(caplog):
    make = [plateau(optimizer(), monitor="val/loss", factor=0.1, patience=n)["scheduler"] for n in (7, 3)]
    settings = settings_of(make[1])
    make[1].load_state_dict({**make[0].state_dict(), "best": 0.5})
    restore_settings(make[1], settings)
    assert (make[1].patience, make[1].best) == (3, 0.5) and not caplog.messages
    accuracy = plateau(optimizer(), monitor="val/accuracy", factor=0.1, patience=0)["scheduler"]
    settings = settings_of(accuracy)
    accuracy.load_state_dict({**make[0].state_dict(), "best": 0.99})  # a loss
    restore_settings(accuracy, settings)
    accuracy.step(0.5)
    assert (accuracy.best, accuracy.num_bad_epochs) == (0.5, 0)
    loss = plateau(optimizer(), monitor="val/loss", factor=0.1, patience=0)["scheduler"]
    settings = settings_of(loss)
    loss.load_state_dict({**accuracy.state_dict(), "best": 0.01, "num_bad_epochs": 3})  # an accuracy
    restore_settings(loss, settings)
    loss.step(0.5)
    assert (loss.best, loss.num_bad_epochs) == (0.5, 0)
    steps = [torch.optim.lr_scheduler.StepLR(optimizer(), step_size=n) for n in (4, 8)]
    settings = settings_of(steps[1])
    steps[1].load_state_dict(steps[0].state_dict())
    restore_settings(steps[1], settings)
    assert caplog.messages[0].startswith("scheduler.step_size=8: StepLR keeps 4 of the checkpoint")
