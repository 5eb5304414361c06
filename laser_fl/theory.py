"""Theory of power and noise: the paper's Lemmas 7 and 8 and channel influence factors, and the best number of values.

Source: paper, App. C, for one client and unit noise variance; docs/explanations/adaptive.md, where the result is ours.
"""

import math

import torch
from torch import Tensor

from laser_fl.shapes import Float64


def rank_one_split(power: Float64[Tensor, "*batch"], rows: int, columns: int) -> Float64[Tensor, "*batch"]:
    """Return the power α of the left factor that minimises (1 + m/α)(1 + n/β), α + β = P.

    α = √(1+P/n) (√(1+P/m) − √(1+P/n)) / (1/m − 1/n), and P/2 where m = n; β = P − α. The code computes
    P √(1+P/n) / (√(1+P/m) + √(1+P/n)), which is the same and does not cancel.

    Source: paper, Lemma 7. Deviation: holds for m > n as well.

    Args:
        power: P > 0, linear.
        rows: m >= 1.
        columns: n >= 1.
    """
    left, right = (1 + power / columns).sqrt(), (1 + power / rows).sqrt()
    return power * left / (left + right)


def rank_r_split(
    power: Float64[Tensor, ""], kappa: Float64[Tensor, " rank"], rows: int, columns: int
) -> tuple[Float64[Tensor, " rank"], Float64[Tensor, " rank"]]:
    """Return the powers (α_i, β_i) of r column pairs: P_i ∝ √κ_i, each split by Lemma 7.

    Source: paper, Lemma 8.

    Args:
        power: P, linear, of all pairs together.
        kappa: κ_i, energies of the pairs, >= 0, not all zero; any scale.
        rows: m >= 1.
        columns: n >= 1.
    """
    roots = kappa.sqrt()
    powers = power * roots / roots.sum()
    alpha = rank_one_split(powers, rows, columns)
    return alpha, powers - alpha


def influence_z_sgd(power: float, rows: int, columns: int) -> float:
    """Return λ of Z-SGD: mn / P, the noise energy relative to the gradient's.

    Source: paper, Eq. (11).

    Args:
        power: P, linear.
        rows: m.
        columns: n.
    """
    return rows * columns / power


def influence_laser_bound(power: float, rows: int, columns: int, rank: int) -> float:
    """Return the upper bound on λ of LASER: 4 / ((m/r) SNR) · (1 + 1 / ((n/r) SNR)), SNR = P / mn, m <= n.

    Source: paper, Eq. (12). Deviation: m is the smaller side, whatever the order.

    Args:
        power: P, linear.
        rows: of the matrix.
        columns: of the matrix.
        rank: r.
    """
    m, n = sorted((rows, columns))
    snr = power / (m * n)
    return 4 * rank / (m * snr) * (1 + rank / (n * snr))


def sampling_error(share: float, power: float, noise_variance: float, clients: int, size: int) -> float:
    """Return the error of a round's update where a random share of the values is sent and the rest waits in memories.

    It is the sum of the content of the memories, 2(1 − p)/p², and of the received noise, τ (p + (2 − p)/k) with
    τ = Nσ²/(kP). Both are over N V/k, the energy of the sampling noise V of a client's gradient per value, over clients
    and values. It is assumed that the gradient's own energy is as large (batches of all clients together are then of
    the critical size), that its direction holds while a value waits, and that the power goes by energy.

    Source: ours; docs/explanations/adaptive.md.

    Args:
        share: p, in (0, 1].
        power: P, linear.
        noise_variance: σ² per value.
        clients: k.
        size: N, values of the model.
    """
    noise = size * noise_variance / (clients * power)
    return 2 * (1 - share) / share**2 + noise * (share + (2 - share) / clients)


def best_share(power: float, noise_variance: float, clients: int, size: int) -> float:
    """Return the share p, in (0, 1], with the least `sampling_error`: all that power carries.

    It solves τ' p³ + 2p = 4, τ' = Nσ²/(kP) (1 − 1/k), by Cardano's formula; about (4/τ')^(1/3) where that is small,
    and 1 where τ' <= 2.

    Source: ours; docs/explanations/adaptive.md.

    Args:
        power: P, linear.
        noise_variance: σ² per value.
        clients: k.
        size: N, values of the model.
    """
    slope = size * noise_variance * (clients - 1) / (clients**2 * power)
    if slope <= 2:
        return 1.0
    half, third = 2 / slope, 2 / (3 * slope)
    root = math.sqrt(half**2 + third**3)
    return math.cbrt(half + root) - math.cbrt(root - half)


def signal_share(power: float, noise_variance: float, clients: int, values: float) -> float:
    """Return the share of a received mean factor's energy that is not noise: s / (1 + s), s = 2kP/(dσ²).

    A basis made of it holds this share of the part that it would hold of the gradients without noise.

    Source: ours; docs/explanations/adaptive.md, with the assumptions of `sampling_error`, and many clients: of k, s is
    less by 1 + 1/k.

    Args:
        power: P, linear.
        noise_variance: σ² per value.
        clients: k.
        values: d, of the factor.
    """
    return 1 / (1 + values * noise_variance / (2 * clients * power))


def least_noise_shares(largest_norms: Tensor, sizes: Tensor) -> Tensor:
    """Split a power so that the noise of all estimates together is least: P_l ∝ c_l √d_l; shares of sum 1.

    The noise of signal l has energy c_l² σ² d_l / (k² P_l), c_l its largest norm over the clients and d_l its number of
    values; Lagrange under Σ_l P_l = P gives the rule. All-zero norms mean equal shares. Source: ours.
    """
    weights = largest_norms * sizes.sqrt()
    weights = torch.where(weights.sum() > 0, weights, 1.0)
    return weights / weights.sum()
