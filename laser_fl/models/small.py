"""Small networks: for 28 x 28 grey images as they are, for other images and for tables by the task's facts."""

from torch import Tensor, nn

from laser_fl.models.base import Network, channels_last

HIDDEN = 256


def linear(features: int = 784, classes: int = 10) -> Network:
    """Build 784 -> 10, of 7,850 values. Source: paper, Table 12. The task's features and classes take their places."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(features, classes)), batches=True, repeats=True)


def mlp(features: int = 784, classes: int = 10) -> Network:
    """Build 784 -> 256 -> 10 with a ReLU; the task's features and classes take their places."""
    layers = nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
    return Network(nn.Sequential(*layers), batches=True, repeats=True)


def cnn(channels: int = 3, classes: int = 10) -> Network:
    """Build two convolutions, of 32 and 64 channels, and a linear layer on 4 x 4 pooled values, for any image size."""
    return Network(
        _OfImages(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, classes),
        ),
        repeats=True,
    )


class _OfImages(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(channels_last(images))  # type: ignore[no-untyped-call]
        return logits
