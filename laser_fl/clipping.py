"""What keeps one client's bad values from spoiling the round for all, at the client and at the server.

The noise of an estimate grows with the largest norm among the clients (c_l in the channel's formula), so a single
absurd one would drown everybody. The server therefore tells, for every signal, the largest norm that it may have: a
multiple of what was usual in earlier rounds. A client whose signal is above it sends it at the cap. With error
feedback it remembers the rest, so that nothing is lost; without, what the cap cuts off is lost. There are none by
default: honest gradients may be far from usual, too, and a cap then delays or loses what they say.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows
from laser_fl.errors import TrainingError
from laser_fl.schemes.base import owners

ADVICE = "a lower learning-rate or more power may help"
LARGEST = torch.finfo(torch.float32).max  # a norm that is still a number where signals are scaled
ROUNDING = 2e-6  # relative, of the norms of float32 signals; less than the power's tolerance
CROWD = 3  # speakers of whom one stands out
WINDOW = 10  # exchanges of which the largest usual norm counts; before there are as many there is no cap


class NormCaps:
    """What norms were usual: the median over the speakers, of which one bad client moves little.

    Of two nobody can tell which is the bad one: then it is the larger.
    """

    def __init__(self, factor: float, usual: Mapping[str, Sequence[float]] | None = None) -> None:
        """factor: the cap over the largest usual norm; inf: there is no cap. usual: to go on from."""
        self._factor = factor
        self._usual: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        for name, values in (usual or {}).items():
            self._usual[name].extend(values)

    @property
    def usual(self) -> dict[str, list[float]]:
        """By signal, the usual norms of the last exchanges."""
        return {name: list(values) for name, values in self._usual.items()}

    @property
    def told(self) -> dict[str, float]:
        """The caps, by signal."""
        if math.isinf(self._factor):
            return {}
        full = {name: max(values) for name, values in self._usual.items() if len(values) == WINDOW}
        return {name: self._factor * most for name, most in full.items() if most > 0}

    def reached(self, names: Iterable[str], norms: Float64[Tensor, "speakers signals"]) -> list[bool]:
        """By speaker, whether a signal of its came at the cap, but for rounding: it was cut there."""
        if not (told := self.told):
            return [False] * len(norms)
        most = torch.tensor([told.get(name, math.inf) for name in names]).to(norms)
        return (norms >= most * (1 - ROUNDING)).any(dim=1).tolist()

    def observe(self, names: Iterable[str], norms: Float64[Tensor, "speakers signals"]) -> None:
        """Take note of an exchange's norms, where anybody spoke."""
        if len(norms) > 0:
            middle = norms.median(dim=0).values if len(norms) >= CROWD else norms.amax(dim=0)
            for name, usual in zip(names, middle.tolist(), strict=True):
                self._usual[name].append(usual)


def share_within(
    caps: Mapping[str, float],
    norms: Float64[Tensor, "speakers signals"],
    signals: Sequence[str],
    blocks: Sequence[str],
) -> Float64[Tensor, "speakers blocks"] | None:
    """The part of each speaker's blocks at which no signal is above its cap; None where none is anyway.

    Signals are as large as what they are made of, or do not depend on its size.
    """
    if not caps:
        return None
    most = torch.tensor([caps.get(name, math.inf) for name in signals]).to(norms)
    if not (norms > most).any():
        return None
    shares = norms.new_ones(len(norms), len(blocks))
    for signal, share in zip(signals, (most / norms).clamp(max=1).unbind(dim=1), strict=True):
        (block,) = owners([signal])
        column = shares[:, blocks.index(block)]
        torch.minimum(column, share, out=column)
    return shares


def along(factor: Tensor, tensor: Tensor) -> Tensor:
    """A factor per row of `tensor`, in a shape to multiply it with."""
    return factor.to(tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))


def without_broken(gradients: Tensors, losses: Tensor) -> tuple[Tensors, Tensor]:
    """Gradients without those of clients in which a value is not finite, whose losses become NaN."""
    totals = torch.stack([as_rows(gradient).sum(dim=1) for gradient in gradients.values()])
    broken = ~totals.isfinite().all(dim=0)
    if not broken.any():
        return gradients, losses
    whole = {name: torch.where(along(broken, g).bool(), 0.0, g) for name, g in gradients.items()}
    return whole, torch.where(broken.to(losses.device), math.nan, losses)


def refuse_overflow(tensors: Tensors, round: int) -> None:
    """Raise TrainingError where an estimate has no norm that is a number: noise far above the power, or divergence."""
    if not tensors:
        return
    ends = torch.stack([torch.stack(t.aminmax()).double() * math.sqrt(t.numel()) for t in tensors.values()])
    if not (fine := (ends.abs() < LARGEST).all(dim=1)).all():
        name = list(tensors)[fine.tolist().index(False)]
        raise TrainingError(f"round {round + 1}: what was heard of {name} is too large to be a number; {ADVICE}")
