"""Norm clipping, and other checks that keep one client's bad values from spoiling the round for all.

The noise of an estimate grows with the largest norm among the clients (c_l in the channel's formula), so a single
absurd one would drown all others. The server therefore sends, for every signal, a bound of its norm: a multiple of the
usual norm of earlier rounds. A client that has a signal above the bound sends it at the bound. With error feedback the
rest stays in its memory, so that nothing is lost; without, the excess is lost. There are no bounds by default: honest
gradients may be far from usual, too, and a bound then delays or loses a part of them.

The checks are at the client (`clip_factors`, `without_broken`) and at the server (`NormClipper`, `refuse_overflow`).
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, to_device, to_host
from laser_fl.errors import TrainingError
from laser_fl.schemes.base import owners
from laser_fl.shapes import Float64

ADVICE = "a lower learning-rate or more power may help"
LARGEST = torch.finfo(torch.float32).max  # a norm that is still a number where signals are scaled
ROUNDING = 2e-6  # relative, of the norms of float32 signals; less than the power's tolerance
CROWD = 3  # transmitters among which one stands out
WINDOW = 10  # exchanges over which the largest usual norm counts; before there are as many there is no bound


class NormClipper:
    """Bounds of the signals' norms, from the usual norms of earlier exchanges.

    The usual norm is the median over the transmitters, which one bad client moves little. Between two transmitters
    nobody can tell which one is bad: then the usual norm is the larger.
    """

    def __init__(self, factor: float, usual: Mapping[str, Sequence[float]] | None = None) -> None:
        """factor: the bound over the largest usual norm; inf: there is no bound. usual: norms to go on from."""
        self._factor = factor
        self._usual: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        for name, values in (usual or {}).items():
            self._usual[name].extend(values)

    @property
    def usual(self) -> dict[str, list[float]]:
        """The usual norms of the last exchanges, by signal."""
        return {name: list(values) for name, values in self._usual.items()}

    @property
    def norm_bounds(self) -> dict[str, float]:
        """The bounds, by signal."""
        if math.isinf(self._factor):
            return {}
        full = {name: max(values) for name, values in self._usual.items() if len(values) == WINDOW}
        return {name: self._factor * most for name, most in full.items() if most > 0}

    def reached(self, names: Iterable[str], norms: Float64[Tensor, "transmitters signals"]) -> list[bool]:
        """Return True for a transmitter with a signal at its bound, but for rounding: it was clipped there."""
        if not (bounds := self.norm_bounds):
            return [False] * len(norms)
        most = torch.tensor([bounds.get(name, math.inf) for name in names]).to(norms)
        return (norms >= most * (1 - ROUNDING)).any(dim=1).tolist()

    def observe(self, names: Iterable[str], norms: Float64[Tensor, "transmitters signals"]) -> None:
        """Record an exchange's norms, where anybody transmitted and there will be bounds."""
        if len(norms) > 0 and not math.isinf(self._factor):
            middle = norms.median(dim=0).values if len(norms) >= CROWD else norms.amax(dim=0)
            for name, usual in zip(names, middle.tolist(), strict=True):
                self._usual[name].append(usual)


def clip_factors(
    norm_bounds: Mapping[str, float],
    norms: Float64[Tensor, "transmitters signals"],
    signals: Sequence[str],
    blocks: Sequence[str],
) -> Float64[Tensor, "transmitters blocks"] | None:
    """Return the factors of each transmitter's blocks at which no signal is above its bound.

    Signals scale with the gradient that they are made of, or do not depend on its size.

    Args:
        norm_bounds: by signal; signals without one are not bounded.
        norms: of the signals.
        signals: their names.
        blocks: names of the blocks, in the order of the result.

    Returns:
        Factors in [0, 1]; None where no signal is above its bound anyway.
    """
    if not norm_bounds:
        return None
    most = to_device(torch.tensor([norm_bounds.get(name, math.inf) for name in signals]).to(norms.dtype), norms.device)
    if not (norms > most).any():
        return None
    shares = norms.new_ones(len(norms), len(blocks))
    for signal, share in zip(signals, (most / norms).clamp(max=1).unbind(dim=1), strict=True):
        (block,) = owners([signal])
        column = shares[:, blocks.index(block)]
        torch.minimum(column, share, out=column)
    return shares


def along(factor: Tensor, tensor: Tensor) -> Tensor:
    """Shape a factor per row of `tensor`, to multiply it with."""
    return factor.to(tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))


def without_broken(gradients: Tensors, losses: Tensor) -> tuple[Tensors, Tensor]:
    """Return the gradients with zeros for clients with a value that is not finite; their losses become NaN.

    There are few calls for all blocks, and nobody waits for a GPU.
    """
    each = list(gradients.values())
    if not each[0].is_cuda and torch.stack(torch._foreach_norm(each)).isfinite().all():
        return gradients, losses
    flat = torch.cat([as_rows(gradient) for gradient in gradients.values()], dim=1)
    broken = ~flat.sum(dim=1).isfinite()
    sizes = [gradient[0].numel() for gradient in gradients.values()]
    parts = torch.split(torch.where(broken.unsqueeze(1), 0.0, flat), sizes, dim=1)
    whole = {name: part.view(g.shape) for (name, g), part in zip(gradients.items(), parts, strict=True)}
    return whole, torch.where(broken.to(losses.device), math.nan, losses)


def refuse_overflow(tensors: Tensors, round: int) -> None:
    """Raise TrainingError where an estimate has no norm that is a number: noise far above the power, or divergence."""
    if not tensors:
        return
    names, each = list(tensors), list(tensors.values())
    found = to_host(torch.stack(torch._foreach_norm(each)))[0].tolist()
    for index, one in enumerate(found):  # a norm is no less than the largest value, and many times faster to have
        if not _fits(one, each[index]) and not _fits(float(each[index].abs().max()), each[index]):
            reason = f"the received estimate of {names[index]} is too large to be a number"
            raise TrainingError(f"round {round + 1}: {reason}; {ADVICE}")


def _fits(largest: float, tensor: Tensor) -> bool:
    """Return True where a tensor of values up to `largest` has a norm that is a number."""
    return largest * math.sqrt(tensor.numel()) < LARGEST
