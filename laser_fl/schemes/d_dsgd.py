"""D-DSGD: the digital rival. Each client sends, error-free, as many coordinates as its link carries.

A client looks at the q largest and the q smallest values of the whole corrected gradient (all blocks as one vector of d
values). It takes the positive ones among the former and the negative ones among the latter, and sends the group with
the larger mean magnitude, all with that mean as their value. Their places take log2 C(d, q) bits, the mean and its sign
33; q <= d/2 is the largest number that fits into the capacity of the link. Where not even one fits, the client is in
outage, and its gradient stays in its memory.

Source: Amiri, Gündüz, "Machine learning at the wireless edge: distributed stochastic gradient descent over-the-air",
IEEE Trans. Signal Processing, 2020, on the quantiser of Sattler, Wiedemann, Müller, Samek, "Sparse binary compression",
2019.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.schemes.approximation import Approximation, Dense
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits
from laser_fl.schemes.indices import topk_indices
from laser_fl.shapes import Float, Float64, Int64

MEAN_BITS = 33  # a 32-bit value and the sign that won


@dataclass(frozen=True)
class DDsgd(Scheme):
    """D-DSGD: signal = the quantised gradient, which arrives as it is.

    Example:
        >>> DDsgd().traits.digital
        True
    """

    @cached_property
    def traits(self) -> Traits:
        """Digital, with error feedback. Not linear: each client's largest values are its own."""
        return Traits(error_feedback=True, digital=True)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Quantise the whole gradient; the result is both signal and approximation."""
        flat = torch.cat([as_rows(corrected[block.name]) for block in ctx.blocks], dim=1)
        counts = [coordinates(bits, flat.shape[1]) for bits in ctx.bits]
        quantised = binary(flat, counts)
        ends = list(accumulate(block.size for block in ctx.blocks))
        parts = quantised.tensor_split(ends[:-1], dim=1)
        signals = {b.name: part.reshape(-1, *b.shape) for b, part in zip(ctx.blocks, parts, strict=True)}
        return signals, {name: Dense(signal) for name, signal in signals.items()}

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Take the mean message as the update."""
        return received.values, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the block's own shape; the signal is mostly zeros."""
        return {block.name: block.shape}

    def values(self, block: Block, ctx: RoundContext) -> int:
        """Return an upper bound: the number of a block's values is known only once the gradient is."""
        return min(block.size, self.num_values(ctx))

    def signals(self, block: Block, ctx: RoundContext) -> int:
        """Return 0: no signal needs a norm or an amplitude."""
        return 0

    def num_values(self, ctx: RoundContext) -> int:
        """Count the coordinates that fit; the most of all transmitters."""
        return max((coordinates(bits, ctx.size) for bits in ctx.bits), default=0)

    def payload(self, values: Int64[Tensor, "*clients"], ctx: RoundContext) -> Float64[Tensor, "*clients"]:
        """Return log2 C(d, q) + 33 bits for q coordinates, none for none."""
        bits = [message_bits(count, ctx.size) if count else 0.0 for count in values.flatten().tolist()]
        return torch.tensor(bits, dtype=torch.float64).view(values.shape)

    def transmits(self, bits: float, blocks: tuple[Block, ...]) -> bool:
        """Return True where at least one coordinate fits."""
        return coordinates(bits, sum(block.size for block in blocks)) >= 1


def message_bits(count: int, size: int) -> float:
    """Return log2 C(size, count) + 33."""
    binomial = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return binomial / math.log(2) + MEAN_BITS


@lru_cache(maxsize=1024)  # all clients of an ideal channel have the same link
def coordinates(bits: float, size: int) -> int:
    """Return the largest q <= size/2 with a message of at most `bits` bits."""
    return bisect.bisect_right(range(1, size // 2 + 1), bits, key=lambda count: message_bits(count, size))


def binary(rows: Float[Tensor, "clients values"], counts: Sequence[int]) -> Float[Tensor, "clients values"]:
    """Compress each row, sparse and binary, to at most its count of equal values, zero elsewhere.

    Rows of other counts are compressed one by one, so that no row's sums are rounded by the length of another's.
    """
    if len(set(counts)) > 1:
        return torch.cat([binary(row.unsqueeze(0), [count]) for row, count in zip(rows, counts, strict=True)])
    high, low = topk_indices(rows, counts[0]), topk_indices(-rows, counts[0])
    highest, lowest = rows.gather(1, high), rows.gather(1, low)
    above, below = highest > 0, lowest < 0
    mean_above, mean_below = _mean(highest, above), _mean(lowest, below)
    up = mean_above > -mean_below
    value = torch.where(up, mean_above, mean_below) * torch.where(up, above, below)
    return torch.zeros_like(rows).scatter_(1, torch.where(up, high, low), value)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum(dim=1, keepdim=True) / chosen.sum(dim=1, keepdim=True).clamp_min(1)
