"""The split of an exchange's power budget: over blocks by the allocation, over a block's signals by the scheme."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.schemes.base import RoundContext, Scheme, owners
from laser_fl.shapes import Float64

Norms = Float64[Tensor, "clients blocks"]
Shares = Float64[Tensor, " blocks"]
Allocation = Callable[[Norms, Norms, Shares], Shares]

SMALLEST_SHARE = 1e-6  # a share of the budget, divided by the number of blocks


def phase_share(scheme: Scheme, ctx: RoundContext) -> float:
    """Return the share of a round's budget that the exchange gets.

    Phases in which the model has nothing to send cede theirs.

    ctx: of the exchange; its power does not matter.
    """
    shares = scheme.traits.phase_shares
    sends = [len(shares) == 1 or scheme.num_values(replace(ctx, phase=phase)) > 0 for phase in range(len(shares))]
    used = sum(share for share, some in zip(shares, sends, strict=True) if some)
    return shares[ctx.phase] / used if sends[ctx.phase] else shares[ctx.phase]


def signal_powers(
    signals: Tensors,
    signal_norms: Float64[Tensor, "clients signals"],
    gradient_norms: Norms,
    scheme: Scheme,
    allocation: Allocation,
    ctx: RoundContext,
) -> Float64[Tensor, " signals"]:
    """Split the budget over blocks by the allocation, and a block's over its signals by the scheme.

    Weights of the clients move the split where it follows the strongest transmission: that of ``min-mse``, and the
    schemes' own. The paper's allocations average each client's own shares, which its weight does not change.

    Args:
        signals: by name, (clients, *shape); those of one block follow each other.
        signal_norms: per transmitter and signal, of what it sends: times its weight in the mean, where it has one.
        gradient_norms: per transmitter and block of the signals, likewise.
        scheme: splits a block's power.
        allocation: splits the budget.
        ctx: of the exchange; its power is the budget.

    Returns:
        Linear powers of sum ctx.power.
    """
    parts, each = owners(signals), [signal.numel() // len(signal) for signal in signals.values()]
    if len(parts) == len(signals):
        part = shares(signal_norms, gradient_norms, torch.tensor(each, dtype=torch.float64), allocation)
    else:
        known, left = {block.name: block for block in ctx.blocks}, iter(each)
        blocks = [known[name] for name in parts]
        sizes = torch.tensor([sum(islice(left, count)) for count in parts.values()], dtype=torch.float64)
        norms = torch.split(signal_norms, list(parts.values()), dim=1)
        block_norms = torch.stack([n[:, 0] if n.shape[1] == 1 else scheme.block_norm(n) for n in norms], dim=1)
        share = shares(block_norms, gradient_norms, sizes, allocation)
        part = torch.cat(
            [
                one.unsqueeze(0) if n.shape[1] == 1 else one * scheme.split(block, n, ctx.power * one, ctx)
                for block, n, one in zip(blocks, norms, share, strict=True)
            ]
        )
    return torch.from_numpy(np.multiply(ctx.power, part, out=np.zeros(len(part)), where=part.numpy() > 0))  # no inf * 0


def shares(signal_norms: Norms, gradient_norms: Norms, sizes: Shares, allocation: Allocation) -> Shares:
    """Ask the allocation, and give at least 1e-6/L to every block that has something to send.

    Args:
        signal_norms: per client and block.
        gradient_norms: per client and block.
        sizes: values sent per block.
        allocation: proposes the shares.

    Returns:
        Shares of sum 1.
    """
    proposed = allocation(signal_norms, gradient_norms, sizes).numpy()
    transmits = signal_norms.numpy().max(axis=0) > 0
    least = SMALLEST_SHARE * (1 + 2 * SMALLEST_SHARE) / len(sizes)  # still enough after the division
    raised = np.where(transmits, np.maximum(proposed, least), proposed)
    return torch.from_numpy(raised / raised.sum())
