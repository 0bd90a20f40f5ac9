"""What can be said of a run's settings before anything is read or trained. All raise ValueError and name the key."""

import inspect

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from engine.config.instantiate import matches_type, type_name
from engine.config.validate import check_values
from lightning_modules.networks.registry import NETWORKS, network_arguments
from lightning_modules.networks.surgery import smallest_image_size

LARGEST_TRIED = 512  # pixels, where a smallest size is looked for


def check_settings(config: DictConfig) -> None:
    """Stages, device, epochs, freezing, the network. Brings `stages` into their order."""
    check_values(config)
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            "trainer=gpu: there is no CUDA device here (torch.cuda.is_available() is false). Use "
            "trainer=auto or trainer=cpu; with a GPU in the machine, check its driver with nvidia-smi"
        )
    check_network(OmegaConf.to_container(config.model, resolve=True, throw_on_missing=True))


def check_network(settings: dict) -> None:
    """Whether the settings of the model are of the types that its network takes; which of them, the network says."""
    arguments = network_arguments(settings)
    for name, parameter in inspect.signature(NETWORKS[arguments["network"]]).parameters.items():
        if name in arguments and not matches_type(arguments[name], parameter.annotation):
            raise ValueError(f"model.{name}={arguments[name]!r}: expected {type_name(parameter.annotation)}")


def check_image_size(config: DictConfig, network: nn.Module) -> None:
    """Whether the network can take images of this size at all, and if not, from which size on it can."""
    size = config.model.image_size
    if smallest_image_size(network, size, start=size) is None:
        smallest = smallest_image_size(network, LARGEST_TRIED)
        raise ValueError(
            f"model.image_size={size} is too small for {config.model.name}; "
            f"the smallest is {smallest or f'above {LARGEST_TRIED}'}"
        )
