"""Choose the learning rate by a short range test before the first step."""

import copy
import inspect
import logging
import math
from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from common.errors import UserError
from common.run_record import LRRangeResult
from common.text import finite_number

log = logging.getLogger(__name__)

WINDOW = 7  # steps over which the change of the loss is averaged
TOO_LARGE = 4  # times the loss at the start: the test ends there
MOST_STEPS = 10_000
SHOWN = 6  # points of the curve on the screen


class LRRangeTest(L.Callback):
    """Train a copy of the network with a rate that grows from step to step; take a part of that of the lowest loss.

    Smith 2017, arXiv:1506.01186, section 3.3, with a rate that grows by the same factor in each step. The loss of a step is
    compared with that of the untrained copy on the same images, so that the choice does not depend on which of them are
    easy; the difference is averaged over the steps around it. Where no rate lowers the loss, `optimizer.lr` stays.

    The rate takes the place of `optimizer.lr`: groups with a rate of their own keep their ratio to the first one's, and a
    schedule starts from it. Weights, optimizer and random numbers of the run stay as they are, since all is done with
    copies. A run that resumes keeps the rate.

    Lightning's LearningRateFinder sets one rate for all groups, and trains through the trainer, with all of its callbacks.

    Args:
        enabled: whether to do it.
        steps: of the test, each with a batch of training images.
        low: the first rate of the first group.
        high: the last one; the test ends earlier where the loss is four times that of the start.
        divide_by: what the rate of the lowest loss is divided by.
    """

    def __init__(self, *, enabled: bool, steps: int, low: float, high: float, divide_by: float):
        if not 10 <= steps <= MOST_STEPS:
            raise UserError(f"callbacks.lr_range_test.steps={steps}: use 10 to {MOST_STEPS:,}")
        if not 0 < low < high < math.inf:
            raise UserError(
                f"callbacks.lr_range_test.low={low} and high={high}: use two rates above 0, the lower one first"
            )
        if not 1 <= divide_by < math.inf:
            raise UserError(f"callbacks.lr_range_test.divide_by={divide_by}: use 1 or more")
        self.enabled = enabled
        self.steps = steps
        self.low = low
        self.high = high
        self.divide_by = divide_by
        self.found: LRRangeResult | None = None  # part of every checkpoint

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.global_step > 0 and self.found is None:
            log.warning("callbacks.lr_range_test: skipped, since the training has begun without it")
        if trainer.global_step == 0:
            self.found = self._test(trainer, pl_module)
        if self.found is not None and self.found.lr is not None:
            pl_module.scale_lr(self.found.lr / pl_module.base_lrs[0])

    def state_dict(self) -> dict:
        return {"found": None if self.found is None else vars(self.found).copy()}

    def load_state_dict(self, state_dict: dict) -> None:
        found = state_dict["found"]
        if found is not None and not _is_test(found):
            raise UserError("its lr_range_test is malformed")
        self.found = None if found is None else LRRangeResult(**found)

    def _test(self, trainer, pl_module) -> LRRangeResult:
        before = pl_module.base_lrs[0]
        if not before > 0:
            raise UserError(
                f"callbacks.lr_range_test: optimizer.lr={before} has no ratio to another rate; use one above 0"
            )
        rates = np.geomspace(self.low, self.high, self.steps)
        with isolate_rng(include_cuda=pl_module.device.type == "cuda"), torch.enable_grad():
            start = list(self._losses(trainer, pl_module, None))
            changes = []
            for number, loss in enumerate(self._losses(trainer, pl_module, rates / before)):
                if not loss < TOO_LARGE * np.mean(start):  # NaN too
                    break
                changes.append(loss - start[number])
        smooth = [float(np.mean(changes[max(i - WINDOW // 2, 0) : i + WINDOW // 2 + 1])) for i in range(len(changes))]
        rates = rates[: len(smooth)].tolist()
        best = int(np.argmin(smooth)) if smooth else 0
        lr = rates[best] / self.divide_by if smooth and smooth[best] < 0 else None
        lr = trainer.strategy.broadcast(lr)  # the same in all processes
        shown = ", ".join(f"{rates[i]:.1e} {smooth[i]:+.3f}" for i in _spread(len(rates), best))
        if lr is None:
            log.warning("callbacks.lr_range_test: no rate lowers the loss, so optimizer.lr=%g stays (rate and change of the "
                        "loss: %s)", before, shown or "none")  # fmt: skip
        else:
            log.info("lr range test: learning rate %.3g in place of %g: the loss is lowest at %.3g, divided by %g (rate and "
                     "change of the loss: %s)", lr, before, rates[best], self.divide_by, shown)  # fmt: skip
        return LRRangeResult(lr=lr, rates=rates, changes=smooth)

    def _losses(self, trainer, pl_module, factors: np.ndarray | None) -> Iterator[float]:
        """Yield the loss of each step of a copy, whose rates are multiplied by `factors`; None: without training it."""
        network, loss_of = copy.deepcopy(pl_module.network), copy.deepcopy(pl_module.loss)
        optimizer = None
        if factors is not None:
            takes_network = "network" in inspect.signature(pl_module.optimizer).parameters
            optimizer = pl_module.optimizer(network if takes_network else network.parameters())
        for step, batch in enumerate(self._batches(trainer, pl_module)):
            torch.manual_seed(step)  # the same dropout, trained or not
            with trainer.precision_plugin.forward_context(), torch.set_grad_enabled(optimizer is not None):
                losses = loss_of(network(batch["pixels"].to(pl_module.dtype)), batch["labels"])
                loss = (losses * batch["weights"]).mean() if "weights" in batch else losses.mean()
            yield loss.item()
            if optimizer is not None:
                for group, lr in zip(optimizer.param_groups, pl_module.base_lrs, strict=True):
                    group["lr"] = lr * float(factors[step])
                loss.backward()
                trainer.precision_plugin.clip_gradients(
                    optimizer, trainer.gradient_clip_val or 0, trainer.gradient_clip_algorithm or "norm"
                )
                optimizer.step()
                optimizer.zero_grad()

    def _batches(self, trainer, pl_module) -> Iterator[dict[str, Tensor]]:
        """Yield a batch a step, augmented, over and over; the same in every process."""
        data, done = trainer.datamodule, 0
        size = min(data.batch_size, len(data.rows("train")))  # a debug run may have fewer images than a batch
        loader = data.sample_of_train_dataloader(self.steps * size, batch_size=size, augmented=True)
        while done < self.steps:
            for batch in loader:
                if done < self.steps and len(batch["labels"]) == size:
                    yield trainer.strategy.batch_to_device(batch, pl_module.device)
                    done += 1
            loader.sampler.set_epoch(loader.sampler.epoch + 1)


def _spread(n: int, best: int) -> list[int]:
    """Return some places of n, evenly spread, and the best one."""
    return sorted({*np.linspace(0, n - 1, min(n, SHOWN)).round().astype(int).tolist(), best} if n else [])


def _is_test(found) -> bool:
    """Return whether it is the content of an LRRangeResult, as the file of a checkpoint may have any."""
    if not isinstance(found, dict) or set(found) != {"lr", "rates", "changes"}:
        return False
    lists = [found["rates"], found["changes"]]
    numbers = all(isinstance(each, list) and len(each) <= MOST_STEPS and all(map(_is_number, each)) for each in lists)
    return numbers and (found["lr"] is None or (_is_number(found["lr"]) and 0 < found["lr"] < math.inf))


def _is_number(value) -> bool:
    return finite_number(value) is not None
