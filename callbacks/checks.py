"""What can be said of a run's settings before anything is read or trained. All raise ValueError and name the key."""

import torch
from omegaconf import DictConfig, ListConfig
from torch import nn

from lightning_modules.networks import smallest_image_size

from .build import nearest

STAGES = ("cost", "fit", "test")
LARGEST_TRIED = 512  # pixels, where a smallest size is looked for


def check_settings(config: DictConfig) -> None:
    """Stages, device, epochs, freezing. Brings `stages` into their order."""
    chosen = config.stages if isinstance(config.stages, ListConfig) else [config.stages]
    for stage in chosen:
        if stage not in STAGES:
            raise ValueError(f"stages={config.stages}: {stage!r} is no stage; {nearest(str(stage), STAGES)}")
    config.stages = [stage for stage in STAGES if stage in chosen]
    if not config.stages:
        raise ValueError("stages=[]: nothing to do; use some of cost, fit, test")
    if "test" in config.stages and "fit" not in config.stages and config.ckpt_path is None:
        raise ValueError(
            f"stages={list(config.stages)}: without fit there is nothing to test; add "
            "ckpt_path=RUN/checkpoints/best.ckpt"
        )
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            "trainer=gpu: there is no CUDA device here (torch.cuda.is_available() is false). Use "
            "trainer=auto or trainer=cpu; with a GPU in the machine, check its driver with nvidia-smi"
        )
    freeze = config.model.freeze
    if not (freeze is None or isinstance(freeze, bool) or (isinstance(freeze, int) and freeze > 0)):
        raise ValueError(f"model.freeze={freeze}: use null, true, or the number of epochs after which to thaw")
    if type(freeze) is int and str(config.trainer.strategy).startswith("ddp"):
        raise ValueError(
            f"model.freeze={freeze} with trainer=ddp: parameters that thaw later would not be averaged over the "
            "processes; use model.freeze=true, or one process"
        )
    if not isinstance(config.trainer.max_epochs, int) or config.trainer.max_epochs < 1:
        raise ValueError(f"trainer.max_epochs={config.trainer.max_epochs}: use a whole number of 1 or more")


def check_image_size(config: DictConfig, network: nn.Module) -> None:
    """Whether the network can take pictures of this size at all, and if not, from which size on it can."""
    size = config.model.image_size
    if smallest_image_size(network, size, start=size) is None:
        smallest = smallest_image_size(network, LARGEST_TRIED)
        raise ValueError(
            f"model.image_size={size} is too small for {config.model.name}; "
            f"the smallest is {smallest or f'above {LARGEST_TRIED}'}"
        )
