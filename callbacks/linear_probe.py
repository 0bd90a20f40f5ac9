"""Linear probing before fine-tuning: train the head first, on features that are computed once."""

import copy
import logging
import math
from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from callbacks.recalibrate_batch_norm import replace_statistics
from common.errors import UserError
from evaluation.intervals import group_numbers
from lightning_modules.networks.surgery import batch_norms, evaluating, find_head, has_trained_statistics

log = logging.getLogger(__name__)

IMAGES = 1024  # of the training split, to measure batch norms
DECAYS = (20.0, 5.0, 1.0, 0.2)  # tried by `auto`
USUAL = 5.0  # the decay of recipe=fast, if the parts cannot show which is best
PARTS = 3  # of the training images, to choose the decay
# Above MUCH / (features x classes) images, though never below ENOUGH, only so many are used, and one part is held out
MUCH, ENOUGH = 2e7, 1000


class LinearProbe(L.Callback):
    """Train only the head before the first step, on the backbone's features of images without augmentation.

    Then the gradients of a random head do not distort a pretrained backbone (LP-FT: Kumar et al. 2022, arXiv:2202.10054); the
    cost is one forward pass. All features are one batch, standardized while the head learns with AdamW: the features of the
    study's network have a standard deviation of 0.02, for which a small learning rate would need dozens of epochs. Afterwards
    the standardization is folded into the head's weights. A head that normalizes features itself cannot be changed this way,
    and learns on the features as they are. From then on the head's dropout is off: with a feature it would also remove the
    feature's mean, which is several times its deviation.

    Batch norms that learn their mean and variance use those of their batches from the first step on. On images unlike those of
    the weights, the head would then get other features than it has learned on, so mean and variance are measured on the
    training images first. FreezeBatchNorm, which decides whether they are learned, comes before this callback.

    Args:
        steps: optimizer steps; 0: no probe.
        weight_decay: weight decay. A head that fits a few hundred images perfectly magnifies every change of the backbone.
            `auto`, for a backbone that stays frozen, takes the one of DECAYS with the smallest loss on parts of the training
            images that the head has not seen, counting only classes that it has seen.
    """

    def __init__(self, *, steps: int, lr: float, weight_decay: float | str):
        if steps < 0:
            raise UserError(f"callbacks.linear_probe.steps={steps}: use 0 (none) or more")
        if not 0 < lr < math.inf:
            raise UserError(f"callbacks.linear_probe.lr={lr}: use a number above 0")
        if weight_decay != "auto" and not (isinstance(weight_decay, int | float) and 0 <= weight_decay < math.inf):
            raise UserError(f"callbacks.linear_probe.weight_decay={weight_decay}: use a number of 0 or more, or auto")
        self.enabled = steps > 0
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.done = False  # part of every checkpoint; if the probe was skipped, the dropout stays

    def on_train_start(self, trainer, pl_module) -> None:
        head = find_head(pl_module.network)
        if head is None:
            raise UserError(
                "callbacks.linear_probe: it is unknown where the head of this network begins; use "
                "callbacks.linear_probe.steps=0"
            )
        if trainer.global_step > 0:  # resumed
            if self.done:
                disable_dropout(head)
            return
        norms = batch_norms(pl_module.network).values()  # also from a file, which may hold an untrained network
        if not pl_module.pretrained or (norms and not any(map(has_trained_statistics, norms))):
            log.warning("callbacks.linear_probe: skipped, since the backbone is not pretrained")
            return
        self.done = True
        disable_dropout(head)
        with evaluating(pl_module.network) as modes:
            learning = [norm for norm in norms if modes[norm] and norm.running_mean is not None]
            if learning:
                replace_statistics(trainer, pl_module, learning, images=IMAGES)
            features, labels, weights = head_features(trainer, pl_module, head)
        with torch.enable_grad():
            loss, decay = self._train(trainer, pl_module, head, features, labels, weights)
        measured = ", with mean and variance of the batch norms measured on them" if learning else ""
        log.info(
            "linear probe: %d steps on the features of %d images%s%s, loss %.4f",
            self.steps, len(labels), measured, f", weight decay {decay:g}" if self.weight_decay == "auto" else "", loss,
        )  # fmt: skip

    def state_dict(self) -> dict:
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict) -> None:
        self.done = bool(state_dict["done"])

    def _train(
        self, trainer, pl_module, head, features: Tensor, labels: Tensor, weights: Tensor | None
    ) -> tuple[float, float]:
        """Train the head; return the final loss and the weight decay."""
        mean, scale = standardization(features)
        if not can_fold(head, features, mean, scale):  # a user's own head learns on the features as they are
            mean = scale = None
        else:
            features = (features - mean) / scale
        images = features, labels, torch.ones(len(labels), device=labels.device) if weights is None else weights
        decay = self.weight_decay
        if decay == "auto":
            decay = self._choose_decay(pl_module, head, images, parts_of(trainer.datamodule, labels.cpu().numpy()))
        loss = self._fit(pl_module, head, images, decay)
        if mean is not None:
            fold_standardization(first_linear(head), mean, scale)
        return loss, decay

    def _fit(self, pl_module, head, images: tuple[Tensor, Tensor, Tensor], weight_decay: float) -> float:
        features, labels, weights = images
        head.train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=weight_decay)
        for _ in range(self.steps):
            loss = (pl_module.loss(head(features).flatten(1), labels) * weights).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def _choose_decay(self, pl_module, head, images: tuple[Tensor, Tensor, Tensor], parts: np.ndarray) -> float:
        """Return the decay with the smallest loss on held-out parts; the stronger one in a tie."""
        features, labels, weights = images
        most = max(ENOUGH, int(MUCH / (features[0].numel() * (int(labels.max()) + 1))))
        n_parts = PARTS if len(labels) <= most else 1
        if len(labels) > most:
            drawn = np.random.default_rng(0).permutation(len(labels))[:most]
            images, parts = tuple(each[torch.from_numpy(drawn).to(labels.device)] for each in images), parts[drawn]
            features, labels, weights = images
        held_out = []
        for part in range(n_parts):
            others = torch.from_numpy(parts == part).to(labels.device)
            # For a class that is missing in the other parts, the loss only shows how confident a head is
            known = others & torch.isin(labels, labels[~others])
            if known.any():
                held_out.append((others, known))
        if not held_out:
            return USUAL
        best, chosen = math.inf, DECAYS[0]
        for decay in DECAYS:
            loss = 0.0
            for others, known in held_out:
                copied = copy.deepcopy(head)
                self._fit(pl_module, copied, tuple(each[~others] for each in images), decay)
                with torch.no_grad():
                    losses = pl_module.loss(copied.eval()(features[known]).flatten(1), labels[known])
                    loss += float((losses * weights[known]).sum())
            if not loss < best:  # the loss has a single minimum
                break
            best, chosen = loss, decay
        return chosen


def parts_of(datamodule, labels: np.ndarray) -> np.ndarray:
    """Return the part of each training image, (N,) from 0; classes are spread evenly, and no group is divided."""
    groups = None
    if not datamodule.stream:
        groups = group_numbers([datamodule.catalog.groups[row] for row in np.sort(datamodule.rows("train"))])
    groups = np.arange(len(labels)) if groups is None else groups
    _, first = np.unique(groups, return_index=True)
    order = np.random.default_rng(0).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    part = np.empty(len(first), np.int64)
    part[order] = np.arange(len(first)) % PARTS
    return part[groups]


def disable_dropout(head: nn.Module) -> None:
    """Set the rate of every dropout layer of the head to 0."""
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (C,) of features (N, C), and one scale for all, since scales per feature would magnify constant ones.

    For maps (N, C, h, w), the mean is (C, 1, 1).
    """
    all_but_channels = [0, *range(2, features.ndim)]
    deviation = features.std(all_but_channels).mean()
    return features.mean(all_but_channels, keepdim=True)[0], deviation if deviation > 0 else torch.ones_like(deviation)


def first_linear(head: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the head's first linear layer, or the convolution that acts as one at each position (SqueezeNet).

    Raises:
        UserError: the head has none.
    """
    for module in head.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            return module
    raise UserError(
        "callbacks.linear_probe: the head of this network has no linear layer; use callbacks.linear_probe.steps=0"
    )


@torch.no_grad()
def fold_standardization(linear: nn.Linear | nn.Conv2d, mean: Tensor, scale: Tensor) -> None:
    """Change a layer trained on standardized features so that it gives the same output for the original ones."""
    linear.weight /= scale
    linear.bias -= linear.weight.flatten(1) @ mean.flatten()


@torch.no_grad()
def can_fold(head: nn.Module, features: Tensor, mean: Tensor, scale: Tensor) -> bool:
    """Return whether standardization can be folded into a head's first linear layer.

    It cannot if the layer has no bias, or if the head changes the features before this layer, for example by normalizing them.
    """
    if first_linear(head).bias is None:
        return False
    before = copy.deepcopy(head).eval()
    after = copy.deepcopy(before)
    fold_standardization(first_linear(after), mean, scale)
    wanted = before((features - mean) / scale)
    return bool((after(features) - wanted).abs().max() <= 0.01 * wanted.abs().max())


@torch.no_grad()
def head_features(trainer, pl_module, head) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the head's input (N, ...), labels (N,) and, if any, weights (N,) of all training images.

    The network must be in evaluation mode.
    """
    seen = []

    def keep(_, inputs) -> None:
        maps = inputs[0].dim() == 4  # the head pools itself: 2 x 2 positions are enough for a start
        seen.append(nn.functional.adaptive_avg_pool2d(inputs[0], 2) if maps else inputs[0])

    batches = []
    with head.register_forward_pre_hook(keep):
        for batch in unaugmented_batches(trainer, pl_module):
            pl_module.network(batch.pop("pixels"))
            batches.append(batch)
    joined = {
        name: torch.cat([batch[name] for batch in batches]) for name in ("labels", "weights") if name in batches[0]
    }
    return torch.cat(seen), joined["labels"], joined.get("weights")


def unaugmented_batches(trainer, pl_module) -> Iterator[dict[str, Tensor]]:
    """Yield batches of normalized training images on the device, unaugmented and the same in every process."""
    for batch in trainer.datamodule.unaugmented_train_dataloader():
        yield trainer.strategy.batch_to_device(batch, pl_module.device)  # the data module's hook normalizes
