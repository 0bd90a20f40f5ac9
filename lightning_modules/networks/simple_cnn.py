"""The study's small network of three convolutions: its overfitting case."""

from torch import Tensor, nn

from lightning_modules.networks.errors import NetworkError

WIDTHS = (32, 64, 128)
HIDDEN = 200


class SimpleCNN(nn.Module):
    """Run three times (3x3 convolution, ReLU, 2x2 max pool) with 32, 64 and 128 channels, then two linear layers.

    1,015,450 parameters and 24,146,320 MACs for two classes at 48 x 48.
    """

    def __init__(self, *, num_classes: int, image_size: int, dropout: float):
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for index, width in enumerate(WIDTHS, 1):
            block = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            self.features.add_module(f"block{index}", block)
            channels = width
        side = image_size // 2 ** len(WIDTHS)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * side * side, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        return self.classifier(self.features(x).flatten(1))  # (B, K)


def simple_cnn(*, num_classes: int, image_size: int, dropout: float = 0.5) -> SimpleCNN:
    """Build the network for images of `image_size` pixels per side.

    Raises:
        NetworkError: the images are too small for three poolings, or `dropout` is not between 0 and 1.
    """
    if not 0 <= dropout <= 1:
        raise NetworkError(f"model.dropout={dropout}: use 0 to 1")
    if image_size < 2 ** len(WIDTHS):
        raise NetworkError(
            f"model.image_size={image_size} is too small for simple_cnn; the smallest is {2 ** len(WIDTHS)}"
        )
    return SimpleCNN(num_classes=num_classes, image_size=image_size, dropout=dropout)
