"""What a network costs: parameters and multiply-accumulates (MACs), counted in two independent ways."""

import copy

import thop
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """All parameters, also the fixed ones."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs_thop(network: nn.Module, image_size: int) -> int:
    """MACs of one picture as thop counts them, which is how the study's table was made.

    thop counts convolutions and linear layers without their bias, and 2 operations per value of a batch norm (4 if
    affine), 1 per output of an average pooling. It leaves buffers in the modules that it profiles: a deep copy goes in.
    """
    picture = torch.zeros(1, 3, image_size, image_size)
    macs, _ = thop.profile(copy.deepcopy(network).cpu().float().eval(), inputs=(picture,), verbose=False)
    return int(macs)


@torch.no_grad()
def count_macs(network: nn.Module, image_size: int) -> int:
    """MACs of one picture by torch's FlopCounterMode: convolutions, linear layers, matrix products and attention.

    Its unit is 2 FLOPs per MAC. Batch norms and poolings count nothing, so that it lies below thop.
    """
    picture = torch.zeros(1, 3, image_size, image_size)
    network = copy.deepcopy(network).cpu().float().eval()
    with FlopCounterMode(display=False) as counter:
        network(picture)
    return counter.get_total_flops() // 2


def measure_cost(network: nn.Module, image_size: int) -> dict[str, int]:
    """The cost fields of a run's record."""
    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network, image_size),
        "macs_thop": count_macs_thop(network, image_size),
    }
