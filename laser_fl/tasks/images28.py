"""What the three tasks on 28 x 28 grey images share: models, loss, metric, and how files are found and checked."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from laser_fl.errors import DataError, brief, reason_of
from laser_fl.models.base import Network
from laser_fl.models.small import linear, mlp
from laser_fl.tasks import idx
from laser_fl.tasks.base import Examples, Task
from laser_fl.tasks.sources import Source, found, missing

MODELS: Mapping[str, Callable[[], Network]] = {"linear": linear, "mlp": mlp}
SIDE, CLASSES = 28, 10
# The four files as they are distributed, unpacked, or with the names that gzip itself has kept in them.
FILES = [
    [f"{part}{mark}{kind}-ubyte{packed}" for mark in "-." for packed in ("", ".gz")]
    for part, kind in (
        ("train-images", "idx3"),
        ("train-labels", "idx1"),
        ("t10k-images", "idx3"),
        ("t10k-labels", "idx1"),
    )
]
# By its test labels: the sets' files have the same names and sizes, and one is easily taken for the other.
KNOWN = {"d385e6215b5ea07d": "MNIST", "03c8618a00b90d33": "FashionMNIST"}


def task(train: Examples, test: Examples) -> Task:
    """A classification task on normalised grey images and their labels."""
    return Task(train=train, test=test, models=MODELS)


def normalised(images: Examples, mean: float, std: float) -> Examples:
    """(examples, 28, 28) of 8 bits, scaled to [0, 1] -> (examples, 1, 28, 28) of zero mean and unit deviation."""
    values = images.inputs.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: they are many
    return Examples(values.unsqueeze(1), images.targets)


def from_files(name: str, folder: str, root: Path, mean: float, std: float) -> Task:
    """The task on one of torchvision's MNIST-like data sets, downloaded to `root` where it is not there.

    name: torchvision's. Its files lie in `root`/name/raw, `root`/name, `root`/folder or `root` itself.

    Raises:
        DataError: the files are not there and could not be downloaded, or something is wrong with one.
    """
    folders = [root / name / "raw", root / name, root / folder, root]
    files = found(folders, FILES) or _downloaded(name, folders)
    _refuse_another_set(files[3], name)
    # One after the other: raw and normalised, both are large.
    train = normalised(_split(*files[:2]), mean, std)
    return task(train, normalised(_split(*files[2:]), mean, std))


def _downloaded(name: str, folders: list[Path]) -> list[Source]:
    """The files, as torchvision has downloaded them. Raises DataError."""
    from torchvision import datasets

    try:
        getattr(datasets, name)(folders[-1], download=True)
        if files := found(folders[:1], FILES):
            return files
        reason = "torchvision has its own form of it, processed"
    except (RuntimeError, OSError) as error:
        reason = brief(reason_of(error))
    raise missing(name, folders, "its four idx files, as they are or as .gz,", reason)


def _split(images: Source, labels: Source) -> Examples:
    """Images and labels that belong together. Raises DataError."""
    pixels, targets = idx.read(images, 3), idx.read(labels, 1)
    if len(pixels) == 0 or pixels.shape[1:] != (SIDE, SIDE):
        rule = f"must hold images of {SIDE} x {SIDE} pixels"
        raise DataError(f"{images}: {rule}, got {' x '.join(map(str, pixels.shape))}")
    if len(targets) != len(pixels):
        raise DataError(f"{labels}: must hold a label for each of {len(pixels)} images, got {len(targets)}")
    if (largest := int(targets.max())) >= CLASSES:
        raise DataError(f"{labels}: must hold labels below {CLASSES}, got {largest}")
    return Examples(pixels, targets.to(torch.int64))


def _refuse_another_set(labels: Source, name: str) -> None:
    other = KNOWN.get(hashlib.blake2b(labels.read(), digest_size=8).hexdigest(), name)
    if other != name:
        raise DataError(f"{labels}: must be {name}'s, got {other}'s")
