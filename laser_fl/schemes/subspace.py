"""A tracker of a matrix's recent updates: their sum as a product of three small matrices, which follows new updates."""

from dataclasses import dataclass

from torch import Tensor

from laser_fl.schemes.laser import orthonormal
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

    def after(
        self,
        factor: Float[Tensor, "rows rank"],
        columns: Float[Tensor, "rows places"],
        indices: Int64[Tensor, " places"],
    ) -> "SubspaceTracker":
        """Return the tracker after the update factor · longᵀ, plus `columns` at `indices`.

        Each of the bases makes one half-step of a power iteration, without the sum ever being built; a basis of which
        nothing is left stays as it is.

        Args:
            factor: received, (rows, rank).
            columns: received, (rows, places).
            indices: of the columns, (places,), none twice.
        """
        fading = 1 - len(indices) / (2 * len(self.long))
        seen = fading * self.short @ self.core + factor + columns @ self.long[indices]  # the sum times long
        short = _basis(seen, self.short)
        along = fading * self.core.mT @ (self.short.mT @ short) + factor.mT @ short
        spread = (self.long @ along).index_add_(0, indices, columns.mT @ short)  # the transposed sum times short
        long = _basis(spread, self.long)
        return SubspaceTracker(short, spread.mT @ long, long)


def _basis(vectors: Float[Tensor, "length rank"], before: Float[Tensor, "length rank"]) -> Tensor:
    return orthonormal(vectors) if vectors.any() else before
