"""Mix the images of a batch and their labels: mixup, CutMix, or any callable that takes both.

Shapes: B batch, K classes, H = W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from common.errors import UserError
from datamodules.transform_list import full_name, own_generators, transform_error

BatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (B, 3, H, W) and (B, K) floats, to the same


def mix_batch(batch: dict[str, Tensor], transform: BatchTransform, num_classes: int, seed: int) -> None:
    """Mix a batch of normalized images in place, with the global generators seeded; their states are restored afterwards.

    The batch gets `targets` (B, K), the shares of the classes, which sum to 1; its `labels` stay. Image weights are mixed with
    the images: for a share s of image a and 1 - s of image b the loss is s w_a L_a + (1 - s) w_b L_b, computed as the new
    `weights` s w_a + (1 - s) w_b times the loss of `targets`.

    Raises:
        UserError: the transform fails or returns anything but images and targets.
    """
    name = f"batch_transform ({full_name(transform)})"
    pixels, targets = batch["pixels"], F.one_hot(batch["labels"], num_classes).float()
    if "weights" in batch:
        targets = targets * batch["weights"][:, None]
    with own_generators(pixels.device) as seed_generators, torch.no_grad():
        seed_generators(seed)
        try:
            mixed = transform(pixels, targets)
        except Exception as error:
            raise transform_error(name, transform, error) from error
    given = [_shape(each) for each in mixed] if isinstance(mixed, (tuple, list)) else [_shape(mixed)]
    wanted = [_shape(pixels), _shape(targets)]
    if given != wanted:
        raise UserError(
            f"{name}: returns {' and '.join(given)} for images and targets {' and '.join(wanted)}; return the same shapes"
        )
    pixels, targets = mixed
    if "weights" in batch:
        batch["weights"] = targets.sum(1)
        targets = targets / batch["weights"].clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    batch["pixels"], batch["targets"] = pixels.contiguous(memory_format=torch.channels_last), targets


def check_batch_transform(transform: BatchTransform, num_classes: int, size: int, batch_size: int) -> None:
    """Try a transform on a made-up batch of images of `size` pixels per side.

    Raises:
        UserError: as `mix_batch`; or a batch of one image leaves mixup and CutMix nothing to mix it with.
    """
    if batch_size == 1 and isinstance(transform, (v2.MixUp, v2.CutMix)):
        raise UserError(
            f"datamodule.batch_size=1: batch_transform ({full_name(transform)}) mixes an image with another one of its batch, "
            "and there is none; use a larger datamodule.batch_size, or batch_transform=none"
        )
    labels = torch.arange(4) % num_classes
    mix_batch({"pixels": torch.zeros(4, 3, size, size), "labels": labels}, transform, num_classes, seed=0)


def _shape(value) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
