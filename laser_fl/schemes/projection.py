"""A structured random projection: sign flips, a cosine transform, a random subset of its rows.

A = √(d/s) R C S with S random signs, C the orthonormal discrete cosine transform and R a choice of s
of its rows. Its columns have norm 1 on average and A Aᵀ = (d/s) I; time is O(d log d) and memory
O(d): no matrix is ever built.

Source: Do, Gan, Nguyen, Tran, "Fast and efficient compressive sensing using structurally random
matrices", 2012; transform by one FFT: Makhoul, "A fast cosine transform in one and two
dimensions", 1980.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from laser_fl.streams import Streams


@dataclass(frozen=True, eq=False)
class Projection:
    """d values -> s numbers.

    signs: ±1 per value. rows: the transform's rows that are kept.
    """

    signs: Float[Tensor, " size"]
    rows: Int64[Tensor, " measurements"]

    @staticmethod
    @lru_cache(maxsize=256)
    def drawn(streams: Streams, index: int, size: int, measurements: int) -> "Projection":
        """The projection of block number `index`: the same for all clients and rounds of a run."""
        generator = streams.generator("projection", index)
        signs = torch.randint(2, (size,), generator=generator).float() * 2 - 1
        rows = torch.randperm(size, generator=generator)[:measurements]
        return Projection(signs, rows)

    @property
    def size(self) -> int:
        """The length d of what is projected."""
        return len(self.signs)

    @property
    def measurements(self) -> int:
        """The length s of the projection."""
        return len(self.rows)

    @property
    def gain(self) -> float:
        """d/s: A Aᵀ = gain · I."""
        return self.size / self.measurements

    def project(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch measurements"]:
        """A x."""
        return cosine_transform(x * self.signs.to(x))[..., self.rows.to(x.device)] * math.sqrt(self.gain)

    def transpose(self, y: Float[Tensor, "*batch measurements"]) -> Float[Tensor, "*batch size"]:
        """Aᵀ y."""
        spread = y.new_zeros((*y.shape[:-1], self.size))
        spread[..., self.rows.to(y.device)] = y
        return inverse_cosine_transform(spread) * self.signs.to(y) * math.sqrt(self.gain)


def cosine_transform(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """X_k = c_k Σ_n x_n cos(π (2n+1) k / 2N), c_0 = √(1/N), else √(2/N): orthonormal DCT-II of the last axis."""
    folded = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), dim=-1)
    key = x.shape[-1], x.dtype, x.device
    result: Tensor = (torch.fft.fft(folded) * _twiddle(*key)).real * _scale(*key)
    return result


def inverse_cosine_transform(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """Undo `cosine_transform`; being orthonormal, its inverse is its transpose."""
    key = x.shape[-1], x.dtype, x.device
    sums = x / _scale(*key)
    mirrored = torch.cat((torch.zeros_like(sums[..., :1]), sums[..., 1:].flip(-1)), dim=-1)
    folded = torch.fft.ifft(torch.complex(sums, -mirrored) * _twiddle(*key).conj()).real
    result = torch.empty_like(x)
    half = (x.shape[-1] + 1) // 2
    result[..., ::2], result[..., 1::2] = folded[..., :half], folded[..., half:].flip(-1)
    return result


@lru_cache(maxsize=64)
def _twiddle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """e^(-iπk/2N) for all k."""
    angles = torch.arange(size, dtype=torch.float64, device=device) * (-math.pi / (2 * size))
    return torch.polar(torch.ones_like(angles), angles).to(dtype.to_complex())


@lru_cache(maxsize=64)
def _scale(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " size"]:
    """c_k for all k."""
    scale = torch.full((size,), math.sqrt(2 / size), dtype=dtype, device=device)
    scale[0] = math.sqrt(1 / size)
    return scale
