"""Peaks against arithmetic written out by hand, and against published ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.activation_memory import FLOAT_BYTES, INT8_BYTES, kibibytes, peak_activations
from lightning_modules.cut_costs import cut_costs
from lightning_modules.networks.truncated import build_backbone
from lightning_modules.profiling import count_parameters, peak_memory_mib

IMAGE = 3 * 16 * 16


def conv(before: int, after: int, stride: int = 1, inplace: bool = True) -> nn.Sequential:
    """Return a convolution, a batch norm and an activation."""
    layers = nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU6(inplace=inplace)
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Add what a block of 4 channels, 12 within, computes to its input, in the ways in which code does."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.stem, self.block = (
            way,
            conv(3, 4, inplace=way == "in_place"),
            nn.Sequential(conv(4, 12), conv(12, 4)),
        )

    def forward(self, x):
        x = self.stem(x)
        if self.way == "in_place":
            y = self.block(x)
            y += x
            return y
        return x + self.block(x) if self.way == "sum" else self.block(x)


class Split(nn.Module):
    """Compute on half of the channels, as ShuffleNetV2 does."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = conv(3, 8), conv(4, 4)

    def forward(self, x):
        first, second = self.stem(x).chunk(2, dim=1)
        return torch.cat([first, self.branch(second)], dim=1)


class Padded(nn.Module):
    """Pad before a strided convolution, as the networks from TensorFlow do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, 2)

    def forward(self, x):
        return self.conv(F.pad(x, [0, 1, 0, 1]))


class Unused(nn.Module):
    """Compute what the result does not need."""

    def __init__(self):
        super().__init__()
        self.needed, self.unneeded = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 50, 1)

    def forward(self, x):
        self.unneeded(x)
        return self.needed(x)


PIXELS = 16 * 16
CASES = {
    # image and 4 channels; 4 and 8 of half the side; 8 and 2
    "chain": (nn.Sequential(conv(3, 4), conv(4, 8, stride=2), conv(8, 2)), (3 + 4) * PIXELS),
    "later_is_larger": (nn.Sequential(conv(3, 4), conv(4, 8), conv(8, 2)), (4 + 8) * PIXELS),
    # the input of the block stays: 4, with 12 and 4 of its last convolution
    "residual": (Residual("sum"), (4 + 12 + 4) * PIXELS),
    "residual_in_place": (Residual("in_place"), (4 + 12 + 4) * PIXELS),
    "no_residual": (Residual("none"), (12 + 4) * PIXELS),
    # both halves stay while the branch runs; then they, its output and what they are joined to
    "split": (Split(), (8 + 4 + 8) * PIXELS),
    "padding": (Padded(), IMAGE + 2 * 8 * 8),
    "activation_of_an_input_that_stays": (nn.Sequential(Split(), nn.Hardswish()), (8 + 4 + 8) * PIXELS),
    "unused": (Unused(), (3 + 2) * PIXELS),
    "image_only": (nn.Flatten(), IMAGE),
}


@pytest.mark.parametrize("name", CASES)
def test_a_peak_is_the_sum_that_is_alive_at_once(name):
    network, expected = CASES[name]
    assert peak_activations(network.eval(), 16) == expected


def test_what_a_cut_needs_ends_where_it_is_cut():
    _, _, costs, _ = cut_costs("mobilenet_v2", (32,))
    peaks = {cost.keep: cost.activations[0] for cost in costs}
    assert peaks["features.0"] == 3 * 32 * 32 + 32 * 16 * 16
    # after the last convolution of the second inverted residual: 16 to 96 channels, strided to 24
    assert peaks["features.2"] == max(3 * 32 * 32 + 32 * 16 * 16, 96 * 16 * 16 + 96 * 8 * 8)
    assert list(peaks.values()) == sorted(peaks.values())


@pytest.mark.parametrize(
    ("backbone", "values"),
    [
        ("mobilenet_v2", 96 * 112**2 + 96 * 56**2),  # the strided depthwise convolution of the second block
        ("resnet18", 64 * 112**2 + 64 * 56**2),  # the pooling
        ("squeezenet1_1", 64 * 111**2 + 64 * 55**2),
    ],
)
def test_a_known_network_peaks_where_it_is_known_to(backbone, values):
    with torch.device("meta"):
        assert peak_activations(build_backbone(backbone), 224) == values


def test_what_torch_allocates_for_layers_in_a_row_is_the_same():
    """By torch's own tracker, which also holds the weights and, to the end, the image."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(16, 64, 3, 1, 1), nn.Conv2d(64, 8, 1)
    )
    size, image = 256, 3 * 256**2
    allocated = peak_memory_mib(network, size) * 2**20 / FLOAT_BYTES - count_parameters(network) - image
    assert peak_activations(network, size) == pytest.approx(allocated, rel=0.002)


def test_of_values_as_memory():
    assert kibibytes(2048, FLOAT_BYTES) == 8 and kibibytes(2048, INT8_BYTES) == 2
