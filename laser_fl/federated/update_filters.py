"""Update filters: they weigh an update by the reliability of the sum of all updates so far.

Updates are u_t = s_t + z_t, with noise of known energy n_t. Their sum V = Σ u_t has signal energy ‖V‖² − Σ n_t, up to
the deviation of the noise from its mean. The gain that recovers the sum of the s_t from V with the least mean-square
error is the Wiener gain of the sum,

    w = 1 − Σ n_t / ‖V‖²,   at least 0,

and the round's update is weighed by it. The gain of a single update would serve as well, but would shrink it to nothing
long before the model stops learning from it: the signals of many rounds point the same way and add up, while their
noise cancels. Each block has a gain of its own. Without noise it is 1, exactly.

`wiener` applies this gain as it is. It waits until the signal rises above the noise in the sum, for which a run may be
too short. `paced` applies a larger gain where the gains so far would otherwise add up to less than is due by then. All
take the arguments of `paced`.

Source: Wiener filter as in Kay, "Fundamentals of Statistical Signal Processing: Estimation Theory", 1993, §12.7;
docs/explanations/adaptive.md.
"""

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, norm

SUM, NOISE, GAINS = "sum/", "noise/", "gains/"


def plain(
    update: Tensors, noise: Tensors, known: Tensors, weighs: bool = True, due: float = 0.0
) -> tuple[Tensors, Tensors]:
    """Return the update as it is, and no state."""
    return update, {}


def wiener(
    update: Tensors, noise: Tensors, known: Tensors, weighs: bool = True, due: float = 0.0
) -> tuple[Tensors, Tensors]:
    """Weigh every block by its gain, without regard to the sum that is due."""
    return paced(update, noise, known, weighs)


def paced(
    update: Tensors, noise: Tensors, known: Tensors, weighs: bool = True, due: float = 0.0
) -> tuple[Tensors, Tensors]:
    """Weigh every block by its gain, or by more, at most 1, where the gains would add up to less than is due.

    Args:
        update: per block.
        noise: energy of each block's noise, a scalar.
        known: the filter's state, by ``sum/<block>``, ``noise/<block>`` and ``gains/<block>``; empty at first; its sums
            change in place.
        weighs: False where this update is to stay as it is; it counts in the sums all the same.
        due: in full steps, not negative.

    Returns:
        The weighed update, and the next state.
    """
    weighed: Tensors = {}
    after: Tensors = {}
    for name, u in update.items():
        total = known[SUM + name].add_(u) if known else u.clone()
        spent = noise[name] + known.get(NOISE + name, 0.0)
        given = known.get(GAINS + name, torch.zeros_like(spent))
        weight = gain(total, spent).maximum((due - given).clamp(max=1)) if weighs else torch.ones_like(spent)
        weighed[name] = u * weight.to(u.dtype) if weighs else u
        after |= {SUM + name: total, NOISE + name: spent, GAINS + name: given + weight}
    return weighed, after


def gain(total: Tensor, noise: Tensor) -> Tensor:
    """Compute 1 − noise / ‖total‖², at least 0, and 1 without noise; a float64 scalar."""
    energy = norm(total.unsqueeze(0))[0].square()
    return torch.where(noise == 0, 1.0, torch.where(energy > noise, 1 - noise / energy, 0.0))
