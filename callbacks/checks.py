"""What can be said of a run's settings before anything is read or trained. All raise ValueError and name the key."""

import inspect

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from lightning_modules.networks import NETWORKS, network_arguments, smallest_image_size

from .build import fits, in_words, nearest

STAGES = ("cost", "fit", "test")
NEEDED = ("throughput", "predictions", "best", "checkpoint")  # callbacks whose results a run records
MOST_DEVICES = 1024
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
    check_numbers(config)
    check_network(OmegaConf.to_container(config.model, resolve=True, throw_on_missing=True))
    missing = [name for name in NEEDED if not config.callbacks.get(name)]
    if missing:
        raise ValueError(f"callbacks.{missing[0]}: no run can be without it; leave it as it is")
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


def check_numbers(config: DictConfig) -> None:
    """What a library would take, and then do nothing, everything or the contrary."""
    if type(config.seed) is not int or not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed}: use a whole number from 0 to {2**32 - 1}")
    devices, clip = config.trainer.devices, config.trainer.get("gradient_clip_val")
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise ValueError(f"trainer.devices={devices}: use up to {MOST_DEVICES}")
    if isinstance(clip, (int, float)) and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val={clip}: use a number above 0, or null")


def check_network(settings: dict) -> None:
    """Whether the settings of the model are of the types that its network takes; which of them, the network says."""
    arguments = network_arguments(settings)
    for name, parameter in inspect.signature(NETWORKS[arguments["network"]]).parameters.items():
        if name in arguments and not fits(arguments[name], parameter.annotation):
            raise ValueError(f"model.{name}={arguments[name]!r}: expected {in_words(parameter.annotation)}")


def check_image_size(config: DictConfig, network: nn.Module) -> None:
    """Whether the network can take pictures of this size at all, and if not, from which size on it can."""
    size = config.model.image_size
    if smallest_image_size(network, size, start=size) is None:
        smallest = smallest_image_size(network, LARGEST_TRIED)
        raise ValueError(
            f"model.image_size={size} is too small for {config.model.name}; "
            f"the smallest is {smallest or f'above {LARGEST_TRIED}'}"
        )
