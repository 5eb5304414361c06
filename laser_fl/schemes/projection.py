"""A structured random projection: sign flips, a cosine transform, a random subset of its rows.

A = √(d/s) R C S with S random signs, C an orthonormal cosine transform and R a choice of s of its rows. Its columns
have norm 1 on average and A Aᵀ = (d/s) I; time is O(d log d) and memory O(d): no matrix is ever built.

Source: Do, Gan, Nguyen, Tran, "Fast and efficient compressive sensing using structurally random matrices", 2012;
transform by one FFT: Makhoul, "A fast cosine transform in one and two dimensions", 1980. Deviation: the values are used
in the order in which the FFT wants them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from laser_fl.rng import RandomStreams
from laser_fl.schemes.indices import moved
from laser_fl.shapes import Complex, Float, Int64


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection of d values to s numbers.

    signs: ±1 per value. rows: the transform's rows that are selected.
    """

    signs: Float[Tensor, " size"]
    rows: Int64[Tensor, " measurements"]

    @staticmethod
    def drawn(streams: RandomStreams, index: int, size: int, measurements: int) -> "Projection":
        """Draw the projection of a block: the same for all clients and rounds of a run.

        Args:
            streams: the run's randomness.
            index: the block's number.
            size: d >= 1.
            measurements: s, in [1, d].
        """
        device = streams.shared
        generator = streams.generator("projection", index, device=device)
        signs = torch.randint(2, (size,), generator=generator, device=device).float() * 2 - 1
        rows = torch.randperm(size, generator=generator, device=device)[:measurements].clone()
        return Projection(signs, rows)

    @property
    def size(self) -> int:
        """The length d of a vector before the projection."""
        return len(self.signs)

    @property
    def measurements(self) -> int:
        """The length s of a vector after the projection."""
        return len(self.rows)

    @property
    def gain(self) -> float:
        """d/s: A Aᵀ = gain · I."""
        return self.size / self.measurements

    def project(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch measurements"]:
        """Return A x; only the selected rows of the transform are finished."""
        selected = torch.fft.fft(x * self.signs.to(x.dtype))[..., self.rows]
        result: Tensor = (selected * weights(self.size, x.dtype, x.device)[self.rows]).real
        return result * math.sqrt(self.gain)

    def transpose(self, y: Float[Tensor, "*batch measurements"]) -> Float[Tensor, "*batch size"]:
        """Return Aᵀ y."""
        spread = y.new_zeros((*y.shape[:-1], self.size)).index_copy_(-1, self.rows, y)
        return inverse_cosine_transform(spread) * self.signs.to(y.dtype) * math.sqrt(self.gain)


@lru_cache(maxsize=2)
def projections_on(
    device: torch.device, streams: RandomStreams, blocks: tuple[tuple[int, int, int], ...]
) -> list[Projection]:
    """Return the projections of a run's blocks on `device`.

    blocks: (the block's number, d, s) of each, as `Projection.drawn` takes them.
    """
    drawn = [Projection.drawn(streams, *block) for block in blocks]
    signs, rows = moved([p.signs for p in drawn], device), moved([p.rows for p in drawn], device)
    return [Projection(*vectors) for vectors in zip(signs, rows, strict=True)]


def cosine_transform(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """Return the orthonormal DCT-II of the last axis, its values used in the order x_0, x_N-1, x_1, x_N-2, ...

    X_k = Re(w_k FFT(x)_k); the order is that in which the FFT of a cosine transform wants its input.
    """
    result: Tensor = (torch.fft.fft(x) * weights(x.shape[-1], x.dtype, x.device)).real
    return result


def inverse_cosine_transform(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """Undo `cosine_transform`; being orthonormal, its inverse is its transpose."""
    w = weights(x.shape[-1], x.dtype, x.device)
    sums = x / w.abs()
    mirrored = torch.cat((torch.zeros_like(sums[..., :1]), sums[..., 1:].flip(-1)), dim=-1)
    result: Tensor = torch.fft.ifft(torch.complex(sums, -mirrored) * (w / w.abs()).conj_physical()).real
    return result


@lru_cache(maxsize=64)
def weights(size: int, dtype: torch.dtype, device: torch.device) -> Complex[Tensor, " size"]:
    """Return w_k = c_k e^(-iπk/2N), c_0 = √(1/N), else √(2/N).

    Args:
        size: N.
        dtype: real; the weights are of the complex type of the same precision.
        device: of the result.
    """
    k = torch.arange(size, dtype=torch.float64, device=device)
    scale = torch.full_like(k, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    return torch.polar(scale, k * (-math.pi / (2 * size))).to(dtype.to_complex())
