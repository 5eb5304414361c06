"""A scheme of your own, Top-K: clients send the largest values of every tensor, and keep the others for later rounds.

$ laser-fl run -c strategy=own_scheme:TopK -c keep=0.05
...
accuracy  69.7 % last, 79.5 % with averaged weights, 84.5 % their best
$ python own_scheme.py
<Result of top-k: 100 rounds, test accuracy 0.819>
<Result of z-sgd: 100 rounds, test accuracy 0.8798>
<Result of laser: 100 rounds, test accuracy 0.9167>
"""

from dataclasses import dataclass

import torch

import laser_fl as lf
from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.schemes.approximation import OwnIndices
from laser_fl.schemes.base import Received, RoundContext, Shapes, Traits
from laser_fl.testing import check_scheme


@lf.register_scheme("top-k")
@dataclass(frozen=True)
class TopK(lf.Scheme):
    """Top-K. Each client has a choice of its own, so that the server receives noise in all values."""

    keep: float = lf.option(0.01, "share of every tensor's values that is sent", gt=0, le=1)
    traits = Traits(error_feedback=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, dict[str, OwnIndices]]:
        """Send zeros but for the largest values; what is sent leaves the memory."""
        signals, approximations = {}, {}
        for block in ctx.blocks:
            rows = as_rows(corrected[block.name])  # one per client
            indices = rows.abs().topk(max(1, round(self.keep * block.size))).indices
            largest = OwnIndices(indices, rows.gather(1, indices))
            signals[block.name] = largest.scattered(block.size).view(-1, *block.shape)
            approximations[block.name] = largest
        return signals, approximations

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Take the received mean for the update."""
        return received.values, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Declare one signal for each tensor, as large as it is."""
        return {block.name: block.shape}


if __name__ == "__main__":
    check_scheme(TopK(keep=0.05))  # it raises where a promise is broken
    torch.manual_seed(0)
    inputs = torch.randn(4000, 32)
    data = inputs, inputs[:, :8].argmax(dim=1)
    schemes = [TopK(keep=0.05), "z-sgd", "laser"]
    results = lf.compare(torch.nn.Linear(32, 8), data, data, strategies=schemes, rounds=100, learning_rate=0.5)
    print(*results.values(), sep="\n")
