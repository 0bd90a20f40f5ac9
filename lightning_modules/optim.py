"""Optimizers with parameter groups, which they choose from the network, and learning rate schedules."""

import inspect
import logging
import math
from collections.abc import Callable
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.errors import UserError
from common.text import join_words
from lightning_modules.networks.surgery import find_head

log = logging.getLogger(__name__)


def discriminative_adamw(
    network: nn.Module, *, lr: float, backbone_lr_factor: float, weight_decay: float, fused: bool
) -> AdamW:
    """Build AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for a pretrained backbone with a fresh head.

    The head learns at `lr`, the backbone at `lr * backbone_lr_factor` (Howard & Ruder 2018, arXiv:1801.06146, with two
    groups). Weights of layers decay; biases and norms do not (He et al. 2019, arXiv:1812.01187, section 3.1).

    Raises:
        UserError: the factor is below 0, or the head of the network cannot be identified.
    """
    if not 0 <= backbone_lr_factor < math.inf:
        raise UserError(f"optimizer.backbone_lr_factor={backbone_lr_factor}: use 0 or more")
    head = find_head(network)
    if head is None and backbone_lr_factor != 1:
        raise UserError("optimizer.backbone_lr_factor: the head of this network cannot be identified; use 1")
    if head is None:
        groups = [{"params": list(network.parameters()), "lr": lr}]
    else:
        of_head = {id(parameter) for parameter in head.parameters()}
        backbone = [parameter for parameter in network.parameters() if id(parameter) not in of_head]
        groups = [
            {"params": list(head.parameters()), "lr": lr, "part": "head"},
            {"params": backbone, "lr": lr * backbone_lr_factor, "part": "backbone"},
        ]
    return AdamW([half for group in groups for half in _by_decay(group, weight_decay)], lr=lr, fused=fused)


def _by_decay(group: dict, weight_decay: float) -> list[dict]:
    """Divide a group into parameters that decay and those that do not: vectors (biases and norms)."""
    halves = [
        group | {"params": [each for each in group["params"] if each.ndim > 1], "weight_decay": weight_decay},
        group | {"params": [each for each in group["params"] if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return [half for half in halves if half["params"]]


Monitored = Literal[
    "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/balanced_accuracy", "val/f1", "val/auroc"
]


def direction(monitor: str) -> Literal["min", "max"]:
    """Return the direction in which a metric improves."""
    return "min" if monitor.endswith("loss") else "max"


def plateau(optimizer: Optimizer, *, monitor: Monitored, factor: float, patience: int) -> dict:
    """Multiply the learning rate by `factor` when `monitor` has not improved for more than `patience` epochs."""
    if patience < 0:
        raise UserError(f"scheduler.patience={patience}: use 0 or more")
    if not 0 < factor < 1:
        raise UserError(f"scheduler.factor={factor}: use a number above 0 and below 1")
    scheduler = ReduceLROnPlateau(optimizer, mode=direction(monitor), factor=factor, patience=patience)
    return {"scheduler": scheduler, "monitor": monitor}


class Schedule(LRScheduler):
    """A learning rate that depends only on how much of the training is done.

    Its shape is not taken from a checkpoint: a run that resumes with more or fewer epochs or steps continues with the learning
    rate of the longer or shorter training.

    Args:
        optimizer: its learning rates correspond to factor 1.
        factor: function of `done` and `length` that returns the factor on them.
        length: epochs or steps of the whole training.
        time_share: function that returns the share of the time limit that is over; the larger of both shares counts. None: no
            time limit.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: Callable[[float, int], float],
        length: int,
        time_share: Callable[[], float] | None = None,
    ):
        self.factor, self.length, self.time_share = factor, length, time_share
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        done = self.last_epoch if self.time_share is None else max(self.last_epoch, self.time_share() * self.length)
        factor = self.factor(min(done, self.length), self.length)  # ends with the training, and never rises again
        return [lr * factor for lr in self.base_lrs]

    def move(self, done: int, length: int | None = None) -> None:
        """Set the learning rate to that after `done` epochs or steps, and the `length` if one is given."""
        self.last_epoch, self.length = done, length or self.length
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def state_dict(self) -> dict:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        self.last_epoch = int(state_dict["last_epoch"])


def _half_cosine(done: float, length: int) -> float:
    return (1 + math.cos(math.pi * done / length)) / 2


def cosine(
    optimizer: Optimizer, *, epochs: int, max_steps: int | None = None, time_share: Callable[[], float] | None = None
) -> dict:
    """Lower the learning rate to zero along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, no restart).

    Args:
        epochs: number of epochs over which it falls, epoch by epoch.
        max_steps: optimizer steps of the whole training if steps or a time limit end it; it then falls step by step.
        time_share: returns the share of the time limit that is over; None: no limit.
    """
    if epochs < 1:
        raise UserError(f"scheduler.epochs={epochs}: use 1 or more")
    if max_steps is None:
        return {"scheduler": Schedule(optimizer, _half_cosine, epochs)}
    return {"scheduler": Schedule(optimizer, _half_cosine, max_steps, time_share), "interval": "step"}


def one_cycle(
    optimizer: Optimizer, *, steps: int, warmup_fraction: float, time_share: Callable[[], float] | None = None
) -> dict:
    """Raise the learning rate linearly from near zero, then lower it to zero along half a cosine, step by step.

    Smith 2018, arXiv:1803.09820, without its cycle of momentum.

    Args:
        steps: optimizer steps of the whole training.
        warmup_fraction: share of the steps in which it rises.
        time_share: returns the share of the time limit that is over; None: no limit.
    """
    if not 0 <= warmup_fraction < 1:
        raise UserError(f"scheduler.warmup_fraction={warmup_fraction}: use a share from 0 to below 1")

    def factor(done: float, length: int) -> float:
        rising = round(warmup_fraction * length)
        if done < rising:
            return (done + 1) / (rising + 1)
        return _half_cosine(done - rising, length - rising) if length > rising else 0.0

    return {"scheduler": Schedule(optimizer, factor, steps, time_share), "interval": "step"}


def check_made(made: object, kind: type, key: str, make: Callable) -> None:
    """Check that a class or function, perhaps the user's own, has made an optimizer or scheduler that can be used.

    Raises:
        UserError: it has made something else, or an optimizer whose step takes no closure or whose groups have no lr.
    """
    of = getattr(make, "func", make)
    name = f"{key}={of.__module__}.{of.__qualname__}"
    if not isinstance(made, kind):
        raise UserError(f"{name}: makes a {type(made).__name__}, not a {kind.__module__}.{kind.__qualname__}")
    if isinstance(made, Optimizer):
        try:
            inspect.signature(made.step).bind(closure=None)
        except TypeError as error:
            raise UserError(
                f"{name}: its step needs the argument closure and must call it, since it computes the gradients"
            ) from error
        if not all("lr" in group for group in made.param_groups):
            raise UserError(
                f"{name}: its groups have no lr; the learning rate, which is logged and scheduled, needs this name"
            )


def group_settings(optimizer: Optimizer) -> list[dict]:
    """Return the settings of the parameter groups; the learning rate also as `initial_lr`, which checkpoints keep."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def check_same_optimizer(optimizer: Optimizer, settings: list[dict]) -> None:
    """Check that the groups loaded from a checkpoint have the settings that this optimizer needs.

    Args:
        settings: result of `group_settings` before the checkpoint was loaded.

    Raises:
        UserError: the checkpoint has the groups of another optimizer class.
    """
    of_class, found = ({name for group in each for name in group} for each in (settings, optimizer.param_groups))
    if missing := sorted(of_class - found - {"initial_lr"}):  # older versions did not keep initial_lr
        raise UserError(
            f"optimizer._target_={type(optimizer).__name__}: the checkpoint has the state of another optimizer (without "
            f"{join_words(missing)}), which this one cannot use; use that optimizer, or start from the weights: "
            "model.weights=FILE"
        )


def restore_group_settings(optimizer: Optimizer, settings: list[dict]) -> None:
    """Set the groups to this command's settings instead of the checkpoint's; a learning rate lowered by a plateau stays low."""
    if len(settings) != len(optimizer.param_groups):  # a callback of the user's own has added groups
        return
    for group, given in zip(optimizer.param_groups, settings, strict=True):
        lr = group["lr"]
        before = group.get("initial_lr", given["lr"])  # a checkpoint of an older version does not have it
        if before != given["lr"]:
            lr = given["lr"] * (lr / before if before else 1.0)
        group.update({**given, "lr": lr})


def restart_lr(optimizer: Optimizer) -> None:
    """Set every group to the learning rate of this command, undoing the changes of a scheduler."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])


def same_kind(scheduler: LRScheduler | None, state: dict | None) -> bool:
    """Return whether a scheduler can resume from the state in a checkpoint; None stands for no scheduler or no state."""
    if isinstance(scheduler, Schedule):  # depends only on the training, not on the state
        return True
    if scheduler is None or state is None:
        return scheduler is state
    return set(scheduler.state_dict()) == set(state)


def settings_of(scheduler: LRScheduler) -> dict:
    """Return the settings of a scheduler: its attributes that are named like its constructor's arguments."""
    names = set(inspect.signature(type(scheduler)).parameters) - {"optimizer", "last_epoch"}
    return {name: value for name, value in scheduler.state_dict().items() if name in names}


def restore_settings(scheduler: LRScheduler, settings: dict) -> None:
    """Set a plateau scheduler to this command's settings; warn about checkpoint settings that another scheduler keeps."""
    if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != settings["mode"]:  # another monitor
        scheduler.best, scheduler.num_bad_epochs = math.inf if settings["mode"] == "min" else -math.inf, 0
    for name, value in settings.items():
        before = getattr(scheduler, name)
        if before == value:
            continue
        if isinstance(scheduler, ReduceLROnPlateau):
            setattr(scheduler, name, value)
        else:
            log.warning(
                "scheduler.%s=%s: %s keeps %s of the checkpoint; only scheduler=cosine and scheduler=one_cycle adapt to "
                "another length of training", name, value, type(scheduler).__name__, before,
            )  # fmt: skip
