"""ResNet18 for 32 x 32 images: a 3 x 3 stem of stride 1 and no max-pool. Source: paper, Tables 8 and 10."""

from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18

from laser_fl.models.base import Network


def resnet18(classes: int = 10) -> Network:
    """torchvision's, with the stem for small images; 11,173,962 values at 10 classes."""
    module = torchvision_resnet18(num_classes=classes)
    module.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    module.maxpool = nn.Identity()
    return Network(module)
