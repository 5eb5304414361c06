"""Theory of power and noise: the paper's Lemmas 7 and 8 and channel influence factors, and how many values to send.

Source: paper, App. C, for one client and unit noise variance; of what is ours, docs/adaptive.md.
"""

import math

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


def sampling_error(share: float, power: float, noise_variance: float, clients: int, size: int) -> float:
    """Error of a round's update where a random `share` of the values is sent and the rest waits in the memories.

    What the memories hold and the noise that is heard, (2(1 − p)/p², and τ (p + (2 − p)/k) with τ = Nσ²/(kP)), both
    over N V/k, the energy of the sampling noise V of a client's gradient per value, over clients and values. It is
    assumed that the gradient's own energy is as large (which is where batches of all clients together are of the
    critical size), that its direction holds while a value waits, and that the power goes by energy.

    Source: ours; docs/adaptive.md. share: p, in (0, 1]. power: P, linear. size: N.
    """
    noise = size * noise_variance / (clients * power)
    return 2 * (1 - share) / share**2 + noise * (share + (2 - share) / clients)


def best_share(power: float, noise_variance: float, clients: int, size: int) -> float:
    """The share p, in (0, 1], with the least `sampling_error`: all that power carries.

    It solves τ' p³ + 2p = 4, τ' = Nσ²/(kP) (1 − 1/k), by Cardano's formula; about (4/τ')^(1/3) where that is small,
    and 1 where τ' <= 2.

    Source: ours; docs/adaptive.md.
    """
    slope = size * noise_variance * (clients - 1) / (clients**2 * power)
    if slope <= 2:
        return 1.0
    half, third = 2 / slope, 2 / (3 * slope)
    root = math.sqrt(half**2 + third**3)
    return math.cbrt(half + root) - math.cbrt(root - half)


def heard_part(power: float, noise_variance: float, clients: int, values: float) -> float:
    """Part of the energy of a factor, heard as a mean under noise, that is not noise: s / (1 + s), s = 2kP/(dσ²).

    A basis made of it holds this part of what it would hold of the gradients without noise.

    Source: ours; docs/adaptive.md, with the assumptions of `sampling_error`, and many clients: of k, s is less by
    1 + 1/k. values: d, of the factor.
    """
    return 1 / (1 + values * noise_variance / (2 * clients * power))
