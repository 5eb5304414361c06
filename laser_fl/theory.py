"""The paper's theory of power and noise: Lemmas 7 and 8 and the channel influence factors.

Source: paper, App. C, for one client and unit noise variance.
"""

from jaxtyping import Float64
from torch import Tensor


def rank_one_split(power: Float64[Tensor, "*batch"], rows: int, columns: int) -> Float64[Tensor, "*batch"]:
    """Power α of the left factor that minimises (1 + m/α)(1 + n/β), α + β = P.

    α = √(1+P/n) (√(1+P/m) − √(1+P/n)) / (1/m − 1/n), and P/2 where m = n; β = P − α. Written
    as P √(1+P/n) / (√(1+P/m) + √(1+P/n)), which is the same and does not cancel.

    Source: paper, Lemma 7. Deviation: holds for m > n as well.
    power: P > 0, linear. rows: m, columns: n, >= 1.
    """
    left, right = (1 + power / columns).sqrt(), (1 + power / rows).sqrt()
    return power * left / (left + right)


def rank_r_split(
    power: Float64[Tensor, ""], kappa: Float64[Tensor, " rank"], rows: int, columns: int
) -> tuple[Float64[Tensor, " rank"], Float64[Tensor, " rank"]]:
    """Powers (α_i, β_i) of r column pairs: P_i ∝ √κ_i, each split by Lemma 7.

    Source: paper, Lemma 8. kappa: energies of the pairs, >= 0, not all zero; any scale.
    """
    roots = kappa.sqrt()
    powers = power * roots / roots.sum()
    alpha = rank_one_split(powers, rows, columns)
    return alpha, powers - alpha


def influence_z_sgd(power: float, rows: int, columns: int) -> float:
    """λ of Z-SGD: mn / P, the noise energy relative to the gradient's. Source: paper, Eq. (11)."""
    return rows * columns / power


def influence_laser_bound(power: float, rows: int, columns: int, rank: int) -> float:
    """Upper bound on λ of LASER: 4 / ((m/r) SNR) · (1 + 1 / ((n/r) SNR)), SNR = P / mn, m <= n.

    Source: paper, Eq. (12). Deviation: the smaller side is taken as m whatever the order.
    """
    m, n = sorted((rows, columns))
    snr = power / (m * n)
    return 4 * rank / (m * snr) * (1 + rank / (n * snr))
