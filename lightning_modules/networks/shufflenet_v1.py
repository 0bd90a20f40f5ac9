"""ShuffleNet V1: Zhang et al. 2017, arXiv:1707.01083. torchvision does not have it.

Shapes: B batch, C channels, G groups, H, W pixels, K classes.
"""

import torch
from torch import Tensor, nn

from lightning_modules.networks.errors import NetworkError

STAGE2_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # table 1: output channels of stage 2 by groups, width 1
UNITS = (4, 8, 4)  # table 1: units of stages 2 to 4, the first of which halves the image
FIRST_CHANNELS = 24  # table 1: channels of the first convolution, width 1
# The paper does not state the smallest width of the first convolution. With 12 channels at 0.25x the network has the 13
# million MACs of its table; with a quarter of 24 it would have 10.8 million.
FEWEST_FIRST_CHANNELS = 12
WIDEST = 16
BOTTLENECK = 4  # section 3.2: the 3x3 convolution has a quarter of the unit's output channels


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Transpose channels (G, C/G), so every group of the next layer sees all groups: section 3.1."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


class ChannelShuffle(nn.Module):
    """Shuffle channels as a layer."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class ShuffleUnit(nn.Module):
    """Run the unit of figure 2: (b) with stride 1, which adds its input; (c) with stride 2, which appends its pooled input.

    Grouped 1x1 convolution, batch norm, ReLU, shuffle, 3x3 depthwise convolution, batch norm, grouped 1x1 convolution,
    batch norm.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int, first_groups: int):
        super().__init__()
        inner = outputs // BOTTLENECK
        branch_outputs = outputs - inputs if stride == 2 else outputs
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, groups=first_groups, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            ChannelShuffle(groups),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, branch_outputs, 1, groups=groups, bias=False),
            nn.BatchNorm2d(branch_outputs),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        joined = branch + x if self.pool is None else torch.cat([self.pool(x), branch], dim=1)
        return torch.relu(joined)


def first_channels(width: float) -> int:
    """Return the channels of the first convolution."""
    return max(FEWEST_FIRST_CHANNELS, round(FIRST_CHANNELS * width))


class ShuffleNetV1(nn.Module):
    """Run the network of table 1. Convolutions use He initialization; the paper states none."""

    def __init__(self, *, groups: int, width: float, num_classes: int):
        super().__init__()
        channels = first_channels(width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        outputs = round(STAGE2_CHANNELS[groups] * width)
        for stage, units in enumerate(UNITS, 2):
            blocks = nn.Sequential()
            for unit in range(units):
                # section 3.2: the first pointwise layer of stage 2 is not grouped, since its input is narrow
                first_groups = 1 if (stage, unit) == (2, 0) else groups
                stride = 2 if unit == 0 else 1
                blocks.append(ShuffleUnit(channels, outputs, stride=stride, groups=groups, first_groups=first_groups))
                channels = outputs
            self.add_module(f"stage{stage}", blocks)
            outputs *= 2
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(x.mean([2, 3]))  # (B, K)


def shufflenet_v1(*, groups: int = 3, width: float = 1.0, num_classes: int) -> ShuffleNetV1:
    """Build ShuffleNet `width`x with `groups`.

    Raises:
        NetworkError: the paper has no channels for these groups, or they do not divide the channels at this width.
    """
    if groups not in STAGE2_CHANNELS:
        raise NetworkError(
            f"model.groups={groups}: use {', '.join(map(str, STAGE2_CHANNELS))}, for which the paper gives channels"
        )
    if not 0 < width <= WIDEST:
        raise NetworkError(f"model.width={width}: use a number above 0 and up to {WIDEST}")
    first, second = first_channels(width), STAGE2_CHANNELS[groups] * width
    counts = {
        "bottleneck channels of stage 2": second / BOTTLENECK,
        "channels that the first unit of stage 2 appends": second - first,
    }
    for what, count in counts.items():
        if count <= 0 or count % groups:
            raise NetworkError(
                f"model.groups={groups} with model.width={width}: {count:g} {what} cannot be divided into {groups} "
                "equal groups of whole channels; use model.width=1, or model.groups=1 or 3, which also have 0.5 and 0.25"
            )
    return ShuffleNetV1(groups=groups, width=width, num_classes=num_classes)
