"""With error feedback a signal stands for its approximation: there is no more in the one than in the other.

The memory forgets the approximation, and so it must follow from the signal. Many clients have nearly the same gradient,
each moved a little in a direction of its own; there are more clients than values. Where a sum of these moves does not
change the signal, it must not change the approximation either.
"""

import math

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.schemes.base import Scheme
from laser_fl.testing.cases import Case, dense, rounds

MODEL = (Block("hidden", (12, 10)), Block("bias", (5,)))
CLIENTS = 1 + 5 + sum(block.size for block in MODEL)
STEP = 1e-6  # of a gradient; small enough that signals change in proportion, large beside rounding
NEGLIGIBLE = 1e-6  # a change of signals, relative to the largest
TOLERANCE = 1e-3  # a share of the approximations' changes; STEP makes curvature far less


class Neighbours(Case):
    """A case of many clients with nearly the same gradient."""

    def gradients(self, round: int) -> Tensors:
        """Draw the gradient of the first client, and let the others' be near it."""
        return {name: g[:1] + STEP * (g - g[:1]) for name, g in super().gradients(round).items()}


def check_stands_for(scheme: Scheme) -> None:
    """Check that a client's approximations follow from its signals alone."""
    if not scheme.traits.error_feedback:
        return
    case = Neighbours(MODEL, CLIENTS, torch.float64, math.inf, seed=0)
    for exchanges in rounds(scheme, case):
        first, kept = exchanges[0], dict[str, Tensor]()
        for x in exchanges:
            kept |= dense(x.approximations, x.corrected)
        sent = _moves([signal for x in exchanges for signal in x.signals.values()])
        left = _moves(list(kept.values()))
        share = float((left - _projected(left, sent)).norm() / left.norm()) if left.any() else 0.0
        promise = "a signal must stand for its approximation, which must follow from it"
        first.inspector.require(share <= TOLERANCE, promise, f"{share:.2g} of the approximation does not")


def _moves(tensors: list[Tensor]) -> Tensor:
    """Return the differences of the other clients' values to the first one's, side by side."""
    rows = torch.cat([as_rows(tensor) for tensor in tensors], dim=1)
    return (rows[1:] - rows[:1]) / STEP


def _projected(left: Tensor, sent: Tensor) -> Tensor:
    """Project onto the combinations of clients that signals tell apart."""
    combinations, strengths, _ = torch.linalg.svd(sent, full_matrices=False)
    distinct = combinations[:, strengths > NEGLIGIBLE * strengths.max()]
    result: Tensor = distinct @ (distinct.mT @ left)
    return result
