"""ResNet18 for 32 x 32 images: a 3 x 3 stem of stride 1 and no max-pool. Source: paper, Tables 8 and 10."""

from typing import Annotated, Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from laser_fl.models.base import Network, channels_last
from laser_fl.registry import Option

TORCHVISIONS_WIDTH = 64


def resnet18(
    classes: int = 10,
    width: Annotated[int, Option("channels of resnet18's first stage", ge=1, lt=2**31)] = TORCHVISIONS_WIDTH,
) -> Network:
    """Build torchvision's ResNet18, with the stem for small images; 11,173,962 values at 10 classes and width 64.

    width: channels of the first stage; each of the other three has twice as many as the one before.
    Weight decay leaves the batch-norms alone (paper, Table 7).
    """
    module = _Scaled(width, classes)
    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for layer in norms.values():
        layer.num_batches_tracked = None  # a count that a fixed momentum makes no use of
    undecayed = tuple(f"{name}.{part}" for name in norms for part in ("weight", "bias"))
    return Network(module, undecayed=undecayed, repeats=True)


class _Scaled(ResNet):  # type: ignore[misc]
    """torchvision's ResNet18 with another number of channels, and another stem and head for it."""

    def __init__(self, width: int, classes: int) -> None:
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images (batch, 3, height, width)."""
        logits: Tensor = super().forward(channels_last(images))
        return logits

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        if planes == TORCHVISIONS_WIDTH:
            self.inplanes = self._width
        stage: nn.Sequential = super()._make_layer(
            block, planes * self._width // TORCHVISIONS_WIDTH, *arguments, **options
        )
        return stage
