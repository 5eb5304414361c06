"""What was heard of a matrix lately, as a product of three small ones, and how it follows what is heard next."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from laser_fl.schemes.laser import orthonormal


@dataclass(frozen=True)
class Lately:
    """About Σ_j φ^j u_{t-j}, the updates of a matrix of which the first axis is the shorter: short · core · longᵀ.

    short, long: orthonormal bases of the vectors of either side.

    Each round fades by φ = 1 − p/2, p being the part of the columns that are sent: a column comes every 1/p rounds on
    average, with all that it has waited for, and the sum must be over several such times to be of the gradient and not
    of the columns that came last.
    """

    short: Float[Tensor, "rows rank"]
    core: Float[Tensor, "rank rank"]
    long: Float[Tensor, "columns rank"]

    def after(
        self,
        factor: Float[Tensor, "rows rank"],
        columns: Float[Tensor, "rows places"],
        places: Int64[Tensor, " places"],
    ) -> "Lately":
        """The same after the update factor · longᵀ, plus `columns` at `places`.

        One half-step of a power iteration for each of the bases, without the sum ever being built; a basis of which
        nothing is left stays as it is.
        """
        fading = 1 - len(places) / (2 * len(self.long))
        seen = fading * self.short @ self.core + factor + columns @ self.long[places]  # the sum times long
        short = _basis(seen, self.short)
        along = fading * self.core.mT @ (self.short.mT @ short) + factor.mT @ short
        spread = (self.long @ along).index_add_(0, places, columns.mT @ short)  # the transposed sum times short
        long = _basis(spread, self.long)
        return Lately(short, spread.mT @ long, long)


def _basis(vectors: Float[Tensor, "length rank"], before: Float[Tensor, "length rank"]) -> Tensor:
    return orthonormal(vectors) if vectors.any() else before
