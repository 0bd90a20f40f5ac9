"""The LightningModule: one network, its loss, its metrics, its optimizer."""

import functools
import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterable

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.errors import UserError
from common.run_record import Decision
from common.untrusted.description import CHECKPOINT_SCHEMA
from lightning_modules.captured_step import CapturedEvaluation, CapturedStep
from lightning_modules.epoch_end import ends_epoch, steps_in_epoch, stops, time_share
from lightning_modules.losses import CrossEntropy, DistillationLoss
from lightning_modules.metrics import EpochMetrics, all_gather
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import build_network
from lightning_modules.optim import (
    Schedule,
    check_made,
    check_same_optimizer,
    group_settings,
    restart_lr,
    restore_group_settings,
    restore_settings,
    same_kind,
    settings_of,
)

log = logging.getLogger(__name__)


class ImageClassifier(L.LightningModule):
    """Train a network for K classes of images, and describe it in every checkpoint.

    All arguments except `loss`, `optimizer` and `scheduler` are plain values that every checkpoint holds, so
    `checkpoint.load_classifier` can build the same classifier again.

    Args:
        network: dict with `network`, a name in `networks.registry.NETWORKS`, and its arguments.
        classes: names, in the order of the logits.
        image_size: height and width in pixels.
        mean: normalization mean of each channel.
        std: normalization standard deviation of each channel.
        fit: how images become squares; see the datamodule.
        range: arguments of `datamodules.deep_pixels.ValueRange` for images of more than 8 bits per channel: low, high, and
            whether it is for all files; None if all images had 8 bits or stated their range.
        interpolation: how images are resized; see the datamodule.
        optimizer: function of the parameters, or of the network if its argument has that name, that returns an optimizer. Not
            needed without training.
        loss: training loss: logits (B, K), and labels (B,) or shares of mixed labels (B, K), -> (B,); or a function of
            `class_counts` that makes it, called before training starts (engine.run.stages.complete_loss).
        scheduler: function of the optimizer that returns Lightning's scheduler dictionary (scheduler, monitor, interval) or a
            scheduler to step after each epoch; None keeps the learning rate. If it has these arguments, it gets `steps`, the
            steps of the whole training; `max_steps`, the same if steps or a time limit end the training; and `time_share`, a
            function that returns how much of the limit is over.

    Raises:
        UserError: the network cannot be built.
    """

    def __init__(
        self,
        *,
        network: dict,
        classes: list[str],
        image_size: int,
        mean: list[float],
        std: list[float],
        fit: str = "squash",
        range: list | None = None,
        interpolation: str = "bilinear",
        loss: nn.Module | Callable[..., nn.Module] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], dict] | None = None,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["loss", "optimizer", "scheduler"], logger=False)
        self.hparams["schema"] = CHECKPOINT_SCHEMA
        self.loss = loss or CrossEntropy()
        self.distillation: DistillationLoss | None = None  # set by callbacks/distillation.py
        self.max_steps: int | None = None  # optimizer steps, set by callbacks/max_steps.py
        self.pretrained = True  # engine/run/stages.py sets it to False if the weights are random
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.classes = list(classes)
        with network_errors():
            built = build_network(num_classes=len(classes), **network)
        # channels_last: 1.4 times as fast on a CPU with this network, and the batches have that layout
        self.network = built.to(memory_format=torch.channels_last)
        self.train_metrics = EpochMetrics()
        self.evaluation_metrics = EpochMetrics()  # of a pass over val or test
        self.results: dict[str, dict[str, float]] = {}  # stage -> its last metrics
        self._loaded_schedulers: list[dict] | None = None  # states of the schedulers in the checkpoint that is resumed
        self._other_scheduler = False  # whether the checkpoint has a scheduler of another kind
        self.decision: Decision | None = None  # temperature, threshold, ..., if its checkpoint has them
        self.captured: CapturedStep | None = None  # set by callbacks/cuda_graphs.py, like the next one
        self.captured_evaluation: CapturedEvaluation | None = None
        self._shapes: dict[str, tuple[int, ...] | None] = {}  # shapes of a checkpoint's tensors before training
        self._is_replayed = False  # whether a replay has already computed this step's gradients

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) of normalized images (B, 3, H, W)."""
        return self.network(pixels.to(self.dtype))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self._is_replayed = self.captured is not None and self.captured.fits(batch)
        logits, labels, loss = self.captured.replay(batch) if self._is_replayed else self.predict_and_score(batch)
        self.train_metrics.update(logits.detach(), labels, loss.detach())
        return loss

    def optimizer_zero_grad(self, *arguments) -> None:
        if not self._is_replayed:
            super().optimizer_zero_grad(*arguments)

    def backward(self, loss: Tensor, *arguments, **options) -> None:
        if not self._is_replayed:
            super().backward(loss, *arguments, **options)

    def predict_and_score(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, K), labels (B,) and the mean loss of a training batch."""
        logits = self(batch["pixels"])
        if not logits.requires_grad:
            name = self.hparams["network"]["network"]
            raise UserError(
                f"model.network={name}: its logits do not depend on its weights in training, so nothing would be learned; "
                "remove no_grad and detach"
            )
        targets = batch.get("targets")  # (B, K) if the batch is mixed
        labels = batch["labels"] if targets is None else targets.argmax(1)
        losses = self.loss(logits, labels if targets is None else targets)  # (B,)
        if self.distillation is not None:
            losses = self.distillation(losses, logits, batch["teacher_logits"])
        return logits, labels, (losses * batch["weights"]).mean() if "weights" in batch else losses.mean()

    def on_fit_start(self) -> None:
        self._shapes = self._shapes_of_tensors()

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            return
        # Resumed: the checkpoint has restored the settings that optimizer and schedule had when it was written. This command's
        # settings count instead, and its number of epochs and steps, which another batch size or an epoch cut short may change.
        (optimizer,) = self.trainer.optimizers
        check_same_optimizer(optimizer, self._group_settings)
        before = [group["lr"] for group in optimizer.param_groups]
        restore_group_settings(optimizer, self._group_settings)
        if self._other_scheduler:
            self._restart_lr(optimizer, before)
            return
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, Schedule):
                self._move(config, before)
            else:
                restore_settings(config.scheduler, self._scheduler_settings)

    def scale_backbone_lr(self, factor: float) -> None:
        """Multiply this command's learning rate of the backbone, before `on_train_start` applies it to a resumed training.

        If the optimizer does not distinguish backbone and head, multiply that of the whole network.
        """
        (optimizer,) = self.trainer.optimizers
        started = self.trainer.global_step > 0  # if so, the checkpoint has restored multiplied learning rates
        factors = [1.0 if settings.get("part") == "head" else factor for settings in self._group_settings]
        for settings, group, own in zip(self._group_settings, optimizer.param_groups, factors, strict=True):
            for of in (settings,) if started else (settings, group):
                of["lr"], of["initial_lr"] = of["lr"] * own, of["initial_lr"] * own
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if hasattr(scheduler, "base_lrs") and (not started or isinstance(scheduler, Schedule)):
                scheduler.base_lrs = [lr * own for lr, own in zip(scheduler.base_lrs, factors, strict=True)]
                scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _restart_lr(self, optimizer: torch.optim.Optimizer, before: list[float]) -> None:
        """Restart from the learning rate of this command, since the changes of another scheduler no longer apply."""
        restart_lr(optimizer)
        after = [group["lr"] for group in optimizer.param_groups]
        if any(not math.isclose(a, b, rel_tol=1e-6) for a, b in zip(after, before, strict=True)):
            log.warning(
                "the learning rate starts again from optimizer.lr, because the checkpoint has another scheduler: %.2g instead "
                "of %.2g in the checkpoint", max(after), max(before),
            )  # fmt: skip

    def _move(self, config, before: list[float]) -> None:
        """Set a schedule to where the training is; warn if the learning rate differs from that in the checkpoint."""
        schedule, by_step = config.scheduler, config.interval == "step"
        if by_step:
            schedule.move(self.trainer.global_step, self._total_steps())
        else:
            schedule.move(self.trainer.current_epoch)
        after, timed = schedule.get_last_lr(), schedule.time_share is not None
        odd = (1e-2 if timed else 1e-6) * max(schedule.base_lrs)
        if any(abs(a - b) > odd for a, b in zip(after, before, strict=True)):
            log.warning(
                "from here on, the learning rate follows a training of %s %s%s, of which %s are done: %.2g instead of %.2g in "
                "the checkpoint", f"{schedule.length:,}", "steps" if by_step else "epochs",
                " or of the time limit" if timed else "", f"{schedule.last_epoch:,}", max(after), max(before),
            )  # fmt: skip

    def on_train_epoch_start(self) -> None:
        self.results.pop("val", None)  # of an earlier epoch; with check_val_every_n_epoch some epochs have none

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        # Here and not in on_train_epoch_end, which callbacks run before the module does. By now all callbacks have run for
        # this batch, so any callback that stops the training has done so.
        if ends_epoch(self.trainer):
            self._finish("train", self.train_metrics)
        if stops(self.trainer):  # makes Lightning validate after this batch even if this epoch has no validation
            self.trainer.check_val_every_n_epoch = 1
            for config in self.trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, Schedule) and config.interval == "step":
                    config.scheduler.move(config.scheduler.last_epoch)  # the time limit may be over by now

    def on_train_epoch_end(self) -> None:
        # Lightning steps the scheduler after writing the epoch's checkpoint, so a run that resumes from it would miss the
        # step. Here the step comes first. A plateau scheduler is not stepped with the value of an earlier epoch.
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                continue
            if config.reduce_on_plateau:
                if not str(config.monitor).startswith("val/") or "val" in self.results:
                    config.scheduler.step(float(self.trainer.callback_metrics[config.monitor]))
            else:
                config.scheduler.step()

    def lr_scheduler_step(self, scheduler, metric) -> None:
        """Step a scheduler that steps after every batch; `on_train_epoch_end` steps the others."""
        if any(c.scheduler is scheduler and c.interval == "step" for c in self.trainer.lr_scheduler_configs):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # Needed in the middle of an epoch; from every process, since only one of them writes the file
        checkpoint["train_sums"] = [all_gather(value) for value in self.train_metrics.sums()]
        self._check_shapes()

    def _check_shapes(self) -> None:
        """Raise UserError if a new copy of this network and loss, perhaps the user's own, could not load their tensors."""
        for name, shape in self._shapes_of_tensors().items():
            if shape is None or shape != self._shapes.get(name, shape):
                owner, _, tensor = name.partition(".")
                whose = f"model.network={self.hparams['network']['network']}" if owner == "network" else owner
                now = "is not a tensor"
                if shape is not None:
                    now = f"had the shape {self._shapes.get(name)} before training and has {shape} now"
                raise UserError(
                    f"{whose}: its {tensor} {now}, so its checkpoints could not be loaded; use buffers that keep their "
                    "shape, or persistent=False"
                )

    def _shapes_of_tensors(self) -> dict[str, tuple[int, ...] | None]:
        """Return name -> shape for each entry of the state dict; None for an entry that is not a tensor."""
        entries = self.state_dict().items()
        return {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in entries}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self._loaded_schedulers = checkpoint.get("lr_schedulers")
        if self._trainer is None or "train_sums" not in checkpoint:
            return
        sums = checkpoint["train_sums"]  # each (processes, ...)
        if all(len(value) == self.trainer.world_size for value in sums):  # in this order the sums have the same bits
            self.train_metrics.add_to_sums([value[self.trainer.global_rank] for value in sums])
        elif self.trainer.is_global_zero:
            self.train_metrics.add_to_sums([value.sum(0) for value in sums])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return `rows` (B,), `logits` (B, K) and `probabilities` (B, K) for callbacks/prediction_writer.py."""
        captured = self.captured_evaluation
        logits = captured.replay(batch) if captured and captured.fits(batch) else self(batch["pixels"])
        logits = logits.float()
        self.evaluation_metrics.update(logits, batch["labels"], F.cross_entropy(logits, batch["labels"]))
        return {"rows": batch["rows"], "logits": logits, "probabilities": logits.softmax(1)}

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._finish("val", self.evaluation_metrics)

    def on_test_epoch_end(self) -> None:
        self._finish("test", self.evaluation_metrics)

    def configure_optimizers(self):
        arguments = inspect.signature(self.optimizer).parameters
        optimizer = self.optimizer(self.network if "network" in arguments else self.parameters())
        check_made(optimizer, torch.optim.Optimizer, "optimizer", self.optimizer)
        self._group_settings = group_settings(optimizer)
        if self.scheduler is None:
            self._forget_other(None)
            return optimizer
        wanted, given = inspect.signature(self.scheduler).parameters, {}
        is_timed = time_share(self.trainer) is not None
        if "steps" in wanted:
            given["steps"] = self._total_steps()
        if "max_steps" in wanted and (self.max_steps or is_timed):
            given["max_steps"] = self._total_steps()
        if "time_share" in wanted and is_timed:
            given["time_share"] = functools.partial(time_share, self.trainer)
        scheduler = self.scheduler(optimizer, **given)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError("scheduler._target_: ReduceLROnPlateau needs a metric to monitor; use scheduler=plateau")
        if not isinstance(scheduler, dict):  # another scheduler of torch, which is stepped after each epoch
            scheduler = {"scheduler": scheduler}
        check_made(scheduler.get("scheduler"), LRScheduler, "scheduler", self.scheduler)
        self._scheduler_settings = settings_of(scheduler["scheduler"])
        self._forget_other(scheduler["scheduler"])
        if "monitor" in scheduler:  # Lightning must not step it, since it fails before the first validation
            scheduler = {**scheduler, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _forget_other(self, scheduler: torch.optim.lr_scheduler.LRScheduler | None) -> None:
        """Keep Lightning, which loads states after this, from loading that of a scheduler of another kind."""
        if self._loaded_schedulers is None:
            return
        self._other_scheduler = not same_kind(scheduler, next(iter(self._loaded_schedulers), None))
        if self._other_scheduler:
            self._loaded_schedulers.clear()

    def _total_steps(self) -> int:
        """Return the optimizer steps of the whole training: those that are done, and those of the remaining epochs.

        The trainer's estimated_stepping_batches is not used: reading it before a checkpoint is loaded makes the trainer forget
        at which batch of an epoch to resume.
        """
        trainer = self.trainer
        batches = trainer.num_training_batches
        if not math.isfinite(batches):  # before Lightning has asked for them
            batches = len(trainer.datamodule.train_dataloader())
        an_epoch = -(-batches // trainer.accumulate_grad_batches)
        epochs = max(trainer.max_epochs - trainer.current_epoch, 0)
        steps = trainer.global_step + epochs * an_epoch - steps_in_epoch(trainer)
        return min(steps, self.max_steps or steps)

    def _finish(self, stage: str, metrics: EpochMetrics) -> None:
        """End an epoch of a stage: store its metrics in `results` and log them to Lightning for callbacks that monitor them."""
        self.results[stage] = metrics.compute_and_reset()
        named = {f"{stage}/{name}": value for name, value in self.results[stage].items()}
        self.log_dict(named, on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True)
