"""CIFAR-10 and CIFAR-100: 50,000 colour images of 32 x 32 to learn, 10,000 to test (Krizhevsky, 2009).

Batches are augmented as usual for them: a random crop after padding by 4, and a random flip.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from laser_fl.blocks import to_device
from laser_fl.config import RunConfig
from laser_fl.data.examples import Examples
from laser_fl.data.sources import missing
from laser_fl.data.task import Task
from laser_fl.errors import DataError, brief, reason_of
from laser_fl.models.resnet18 import resnet18
from laser_fl.shapes import Float, UInt8

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's training images, per channel
MEAN_100, STD_100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
PADDING = 4


def load_10(data_dir: Path, config: RunConfig) -> Task:
    """Read CIFAR-10 from `data_dir`/cifar-10-batches-py. Raises DataError where it cannot be had."""
    from torchvision.datasets import CIFAR10

    return _task(CIFAR10, data_dir, 10, MEAN, STD)


def load_100(data_dir: Path, config: RunConfig) -> Task:
    """Read CIFAR-100 from `data_dir`/cifar-100-python. Raises DataError where it cannot be had."""
    from torchvision.datasets import CIFAR100

    return _task(CIFAR100, data_dir, 100, MEAN_100, STD_100)


def _task(dataset: Any, root: Path, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Task:
    return Task(
        train=_split(dataset, root, True),
        test=_split(dataset, root, False),
        models={"resnet18": resnet18},
        fixed={"classes": classes, "channels": 3},
        evaluation_batch=500,
        augment=augment,
        prepare=partial(normalised, mean=mean, std=std),
    )


def _split(dataset: Any, root: Path, train: bool) -> Examples:
    """Read images as (examples, 3, 32, 32) of 8 bits.

    torchvision unpickles files of the release only: it compares their checksums first.
    """
    folder = root / dataset.base_folder
    try:
        data = dataset(root, train=train, download=not folder.is_dir())
    except (RuntimeError, OSError) as error:
        _refuse_others(dataset, root)
        files = f"its files, or {dataset.filename} in {root},"
        raise missing(dataset.__name__, [folder], files, brief(reason_of(error))) from None
    return Examples(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))


def _refuse_others(dataset: Any, root: Path) -> None:
    """Name the file that is not the release's, or lacks. Raises DataError."""
    from torchvision.datasets.utils import check_integrity

    folder, archive = root / dataset.base_folder, root / dataset.filename
    files = [(archive, dataset.tgz_md5)] if archive.is_file() else []
    if folder.is_dir():
        batches = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        files = [(folder / name, checksum) for name, checksum in batches]
    for path, checksum in files:
        if not check_integrity(path, checksum):
            rule = f"must be {dataset.__name__}'s as released, of MD5 sum {checksum}"
            got = f"another in {path.stat().st_size:,} bytes" if path.is_file() else "none"
            raise DataError(f"{path}: {rule}, got {got}")


def normalised(
    images: UInt8[Tensor, "*batch channels height width"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "*batch channels height width"]:
    """Scale images of 8 bits to zero mean and unit deviation per channel.

    Args:
        images: (..., channels, height, width), 0 to 255.
        mean: per channel, of images scaled to [0, 1].
        std: per channel, likewise.
    """
    return (images / 255 - _per_channel(mean, images.device)) / _per_channel(std, images.device)


@cache  # a GPU would be waited for at each copy
def _per_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "channels 1 1"]:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def augment(
    images: UInt8[Tensor, "clients batch channels height width"], generators: list[torch.Generator]
) -> UInt8[Tensor, "clients batch channels height width"]:
    """Crop each image at random from its padded self, and flip every other one, all in one indexing."""
    clients, batch, _, height, width = images.shape
    draws = [torch.randint(2 * (2 * PADDING + 1) ** 2, (batch,), generator=g) for g in generators]
    drawn = to_device(torch.cat(draws), images.device)
    down, rest = drawn // (2 * (2 * PADDING + 1)), drawn % (2 * (2 * PADDING + 1))
    right, flips = rest // 2, rest % 2 == 1
    rows = down.unsqueeze(1) + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = right.unsqueeze(1) + torch.where(flips.unsqueeze(1), columns.flip(0), columns)
    padded = pad(images.flatten(end_dim=1), (PADDING,) * 4)
    which = torch.arange(clients * batch, device=images.device)
    cropped = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).contiguous().view(images.shape)
