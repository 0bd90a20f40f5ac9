"""The LightningModule: one network, its loss, its metrics, its optimizer."""

import inspect
import sys
from collections.abc import Callable, Iterable

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.run_record import Decision
from common.untrusted.description import CHECKPOINT_SCHEMA
from lightning_modules.epoch_end import ends_epoch, stops
from lightning_modules.losses import CrossEntropy, DistillationLoss
from lightning_modules.metrics import EpochMetrics, all_gather
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import build_network


class ImageClassifier(L.LightningModule):
    """Train a network for K classes of images, and describe it in every checkpoint.

    All arguments but `loss`, `optimizer` and `scheduler` are plain values and go into every checkpoint, from which
    `checkpoint.load_classifier` builds the same classifier again.

    Args:
        network: `network`, one of `networks.registry.NETWORKS`, and its arguments.
        classes: names, in the order of the logits.
        image_size: pixels, height and width.
        mean: of each channel, as the images are normalized.
        std: of each channel.
        fit: how images become squares, as of the datamodule.
        range: of the values of images with more than 8 bits a channel: low, high, and whether it is of all files, as of
            `datamodules.deep_pixels.ValueRange`; None where all were of 8 bits or stated it themselves.
        optimizer: parameters, or the network where its argument is called so, -> optimizer. Not needed where nothing is
            trained.
        loss: logits (B, K), and labels (B,) or the shares of mixed ones (B, K), -> (B,), for training; or a function of
            `class_counts` that makes it, to be called before training starts (engine.run.stages.complete_loss).
        scheduler: optimizer, and the `steps` of the whole training where it has that argument, -> Lightning's scheduler
            dictionary (scheduler, monitor, interval); None keeps the learning rate.

    Raises:
        UserError: a network that cannot be built.
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
        loss: nn.Module | Callable[..., nn.Module] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], dict] | None = None,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["loss", "optimizer", "scheduler"], logger=False)
        self.hparams["schema"] = CHECKPOINT_SCHEMA
        self.loss = loss or CrossEntropy()
        self.distillation: DistillationLoss | None = None  # set by callbacks/distillation.py
        self.max_steps: int | None = None  # of the optimizer, set by callbacks/max_steps.py
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.classes = list(classes)
        with network_errors():
            built = build_network(num_classes=len(classes), **network)
        # channels_last: 1.4 times as fast on a processor with this network, and the batches have that layout
        self.network = built.to(memory_format=torch.channels_last)
        self.train_metrics = EpochMetrics()
        self.evaluation_metrics = EpochMetrics()  # of a pass over val or test
        self.results: dict[str, dict[str, float]] = {}  # stage -> its last metrics
        self.decision: Decision | None = None  # temperature, threshold, ..., where its checkpoint has them

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) of normalized images (B, 3, H, W)."""
        return self.network(pixels.to(self.dtype))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["pixels"])
        targets = batch.get("targets")  # (B, K), where the batch is mixed
        labels = batch["labels"] if targets is None else targets.argmax(1)
        losses = self.loss(logits, labels if targets is None else targets)  # (B,)
        if self.distillation is not None:
            losses = self.distillation(losses, logits, batch["teacher_logits"])
        loss = (losses * batch["weights"]).mean() if "weights" in batch else losses.mean()
        self.train_metrics.update(logits.detach(), labels, loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self.results.pop("val", None)  # of an earlier epoch: with check_val_every_n_epoch not each has some

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        # With the last batch and not in on_train_epoch_end, since callbacks have theirs before the module. Here all
        # callbacks had theirs, so that whoever stops the training has done so.
        if ends_epoch(self.trainer):
            self._finish("train", self.train_metrics)
        if stops(self.trainer):  # Lightning validates after this batch, which else it would not in each epoch
            self.trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self) -> None:
        # Lightning steps the scheduler after it has written the epoch's checkpoint, so that a run that resumes from it
        # would miss the step. Here it comes before. A plateau is not stepped on the value of an earlier epoch.
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                continue
            if config.reduce_on_plateau:
                if not str(config.monitor).startswith("val/") or "val" in self.results:
                    config.scheduler.step(float(self.trainer.callback_metrics[config.monitor]))
            else:
                config.scheduler.step()

    def lr_scheduler_step(self, scheduler, metric) -> None:
        """Step a scheduler of every step; `on_train_epoch_end` has stepped the others."""
        if any(c.scheduler is scheduler and c.interval == "step" for c in self.trainer.lr_scheduler_configs):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # In the middle of an epoch; of each process, since one of them writes the file
        checkpoint["train_sums"] = [all_gather(value) for value in self.train_metrics.sums()]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if self._trainer is None or "train_sums" not in checkpoint:
            return
        sums = checkpoint["train_sums"]  # each (processes, ...)
        if all(len(value) == self.trainer.world_size for value in sums):  # in this order they add up to the same bits
            self.train_metrics.add_to_sums([value[self.trainer.global_rank] for value in sums])
        elif self.trainer.is_global_zero:
            self.train_metrics.add_to_sums([value.sum(0) for value in sums])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val", self.evaluation_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        self._finish("test", self.evaluation_metrics)

    def configure_optimizers(self):
        arguments = inspect.signature(self.optimizer).parameters
        optimizer = self.optimizer(self.network if "network" in arguments else self.parameters())
        if self.scheduler is None:
            return optimizer
        arguments = inspect.signature(self.scheduler).parameters
        given = {"steps": self._total_steps} if "steps" in arguments else {}
        given |= {"max_steps": self._total_steps} if "max_steps" in arguments and self.max_steps else {}
        scheduler = self.scheduler(optimizer, **{name: value() for name, value in given.items()})
        if "monitor" in scheduler:  # not by Lightning, which fails before the first validation
            scheduler = {**scheduler, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _total_steps(self) -> int:
        """Return the optimizer steps of the whole training.

        Not the trainer's estimated_stepping_batches: read before a checkpoint is loaded, it makes the trainer forget at
        which batch of an epoch to resume.
        """
        batches = len(self.trainer.datamodule.train_dataloader())
        steps = self.trainer.max_epochs * -(-batches // self.trainer.accumulate_grad_batches)
        return min(steps, self.max_steps or steps)

    def _evaluation_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `rows` (B,), `logits` and `probabilities` (B, K) each, for callbacks/prediction_writer.py."""
        logits = self(batch["pixels"]).float()
        self.evaluation_metrics.update(logits, batch["labels"], F.cross_entropy(logits, batch["labels"]))
        return {"rows": batch["rows"], "logits": logits, "probabilities": logits.softmax(1)}

    def _finish(self, stage: str, metrics: EpochMetrics) -> None:
        """End an epoch of a stage: the metrics go to `results` and, for callbacks that monitor, to Lightning."""
        self.results[stage] = metrics.compute_and_reset()
        for name, value in self.results[stage].items():
            self.log(
                f"{stage}/{name}",
                value,
                on_step=False,
                on_epoch=True,
                logger=False,
                batch_size=1,
                sync_dist=self.trainer.world_size > 1,
            )
