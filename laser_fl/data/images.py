"""Images of one's own (task=images): a folder of image files for each class."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from laser_fl.config import RunConfig
from laser_fl.data.adapters import as_data
from laser_fl.data.cifar import normalised
from laser_fl.data.splits import TRAIN, divided, name_of_test
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError, brief, packages_for, reason_of
from laser_fl.models.small import cnn, linear, mlp
from laser_fl.registry import Option

LARGEST_SAMPLE = 2048  # images of which mean and deviation are taken


def load_images(
    data_dir: Path,
    config: RunConfig,
    image_size: Annotated[int, Option("height and width of images, cut and scaled; 0: as they are", ge=0, le=8192)] = 0,
) -> Task:
    """Read the images in `data_dir`/<class>/, or in `data_dir`/train/<class>/ and `data_dir`/test/<class>/.

    Where they are not divided, a fifth of each class is the test.

    Args:
        data_dir: the folder.
        config: of the run.
        image_size: height and width to which images are cut and scaled; 0: they have one size.

    Raises:
        ConfigError: data-dir is not set.
        DataError: there are no images, or they cannot be read, or have several sizes.
    """
    if not config.data_dir:
        raise ConfigError("data-dir: must name a folder with a folder of images for each class for task images, got ''")
    names = [path.name for path in data_dir.iterdir() if path.is_dir()] if data_dir.is_dir() else []
    test = name_of_test(names)
    train_images = _folder(data_dir / TRAIN if test else data_dir, image_size)
    if test:
        test_images = _folder(data_dir / test, image_size)
        if test_images.classes != train_images.classes:
            classes, others = (", ".join(one.classes) for one in (train_images, test_images))
            raise DataError(f"{data_dir / test}: must have the classes {brief(classes)}, got {brief(others)}")
        parts: tuple[Any, ...] = train_images, test_images
    else:
        rows = divided(torch.tensor(train_images.targets))
        parts = tuple(Subset(train_images, some.tolist()) for some in rows)
    train, tested = (as_data(part, name) for part, name in zip(parts, ("train", "test"), strict=True))
    mean, std = _statistics(train)
    return Task(
        train=train,
        test=tested,
        models={"cnn": cnn, "mlp": mlp, "linear": linear},
        fixed=_facts(train, len(train_images.classes)),
        evaluation_batch=500,
        prepare=partial(normalised, mean=mean, std=std),
    )


def _folder(folder: Path, size: int) -> Any:
    """Return torchvision's data set of a folder. Raises DataError where it has no images."""
    with packages_for("task=images"):
        from torchvision.datasets import ImageFolder
    try:
        return ImageFolder(str(folder), transform=partial(_pixels, size=size))
    except OSError as error:  # torchvision's FileNotFoundError, with a long list of endings
        reason = brief(reason_of(error).partition(". Supported")[0])
        raise DataError(f"{folder}: must have a folder of images for each class ({reason})") from None


def _pixels(image: Any, size: int) -> Tensor:
    """Return an image as (3, height, width) of 8 bits."""
    from torchvision.transforms import functional

    pixels: Tensor = functional.pil_to_tensor(image)
    if size:
        pixels = functional.resize(pixels, [size], antialias=True)
        pixels = functional.center_crop(pixels, [size, size])
    return pixels


def _statistics(train: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per channel, of some images scaled to [0, 1]."""
    inputs, _ = next(iter(train.batches(min(LARGEST_SAMPLE, len(train)), LARGEST_SAMPLE)))
    values = inputs.double() / 255
    std = values.std(dim=(0, 2, 3), correction=0).clamp_min(1e-3)  # one grey is a class of its own somewhere
    return tuple(values.mean(dim=(0, 2, 3)).tolist()), tuple(std.tolist())


def _facts(train: Any, classes: int) -> dict[str, int]:
    inputs, _ = next(iter(train.batches(1, 1)))
    channels, height, width = inputs.shape[1:]
    return {"classes": classes, "channels": channels, "features": channels * height * width}
