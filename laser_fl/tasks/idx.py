"""The idx format of MNIST's files: a magic number, sizes, unsigned bytes (LeCun, Cortes, Burges).

torchvision's own reader takes no compressed files, and says nothing of what is wrong with others.
"""

import struct
from math import prod

import torch
from jaxtyping import UInt8
from torch import Tensor

from laser_fl.errors import DataError
from laser_fl.tasks.sources import Source


def read(source: Source, dimensions: int) -> UInt8[Tensor, "..."]:
    """The array in an idx file. Raises DataError where it is none of bytes and `dimensions`, or not whole."""
    data, header = source.read(), 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if len(data) < header or not data.startswith(magic):
        rule = f"must be an idx file of bytes in {dimensions} dimensions, which begins with {magic.hex()}"
        raise DataError(f"{source}: {rule}, got {data[:4].hex() or 'nothing'}")
    sizes = struct.unpack_from(f">{dimensions}I", data, 4)
    if prod(sizes) != len(data) - header:
        announced = " x ".join(map(str, sizes))
        raise DataError(f"{source}: must hold {announced} bytes, as it says, got {len(data) - header}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[header:].view(sizes)
