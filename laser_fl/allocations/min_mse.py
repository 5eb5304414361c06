"""The allocation with the least summed noise. Ours; the paper has no counterpart."""

from laser_fl.allocations.paper import Norms, Shares, mean_share


def min_mse(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Split so that the noise of all estimates together is least: P_l ∝ c_l √d_l.

    The noise of block l has energy c_l² σ² d_l / (k² P_l), c_l = max_i ‖s_il‖; Lagrange under
    Σ_l P_l = P gives the rule. All-zero signals mean uniform.
    """
    return mean_share((signal_norms.amax(dim=0) * sizes.sqrt()).unsqueeze(0))
