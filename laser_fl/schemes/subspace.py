"""A tracker of a matrix's recent updates: their sum as a product of three small matrices, which follows new updates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_fl.schemes.laser import any_of_each, orthonormal_each
from laser_fl.shapes import Float, Int64


@dataclass(frozen=True)
class SubspaceTracker:
    """Approximation short · core · longᵀ of Σ_j φ^j u_{t-j}, the faded updates of a matrix with a shorter first axis.

    short, long: orthonormal bases of the vectors of either side.

    Each round fades by φ = 1 − p/2, where p is the share of the columns that is sent. A column comes every 1/p rounds
    on average, with all that has waited in the memory; the sum must be over several such times to be of the gradient
    and not of the columns that came last.
    """

    short: Float[Tensor, "rows rank"]
    core: Float[Tensor, "rank rank"]
    long: Float[Tensor, "columns rank"]

    def times_long(self, update: "FactorAndColumns") -> Float[Tensor, "rows rank"]:
        """Return (the faded sum + the update) · long."""
        faded = update.fading(len(self.long)) * self.short @ self.core
        return faded + update.factor + update.columns @ self.long[update.indices]

    def times_short(
        self, update: "FactorAndColumns", short: Float[Tensor, "rows rank"]
    ) -> Float[Tensor, "columns rank"]:
        """Return (the faded sum + the update)ᵀ · `short`, a basis of its own."""
        along = update.fading(len(self.long)) * self.core.mT @ (self.short.mT @ short) + update.factor.mT @ short
        return (self.long @ along).index_add_(0, update.indices, update.columns.mT @ short)


@dataclass(frozen=True)
class FactorAndColumns:
    """A received update, factor · longᵀ plus some columns at their indices, none twice."""

    factor: Float[Tensor, "rows rank"]
    columns: Float[Tensor, "rows places"]
    indices: Int64[Tensor, " places"]

    def fading(self, length: int) -> float:
        """Return φ, for a matrix with `length` columns."""
        return 1 - len(self.indices) / (2 * length)


def follow(trackers: Sequence[SubspaceTracker], updates: Sequence[FactorAndColumns]) -> list[SubspaceTracker]:
    """Return the trackers of all matrices after an update of each.

    Each of the bases makes one half-step of a power iteration, without the sum ever being built; a basis of which
    nothing is left stays as it is.
    """
    pairs = list(zip(trackers, updates, strict=True))
    seen = [tracker.times_long(update) for tracker, update in pairs]
    shorts = _bases(seen, [tracker.short for tracker in trackers])
    spread = [tracker.times_short(update, short) for (tracker, update), short in zip(pairs, shorts, strict=True)]
    longs = _bases(spread, [tracker.long for tracker in trackers])
    sides = zip(shorts, spread, longs, strict=True)
    return [SubspaceTracker(short, vectors.mT @ long, long) for short, vectors, long in sides]


def _bases(vectors: list[Tensor], before: list[Tensor]) -> list[Tensor]:
    if not vectors:
        return []
    found = zip(any_of_each(vectors), orthonormal_each(vectors), before, strict=True)
    return [torch.where(spans, basis, earlier) for spans, basis, earlier in found]
