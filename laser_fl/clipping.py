"""Norm clipping, and other checks that keep one client's bad values from spoiling the round for all.

The noise of an estimate grows with the largest norm among the clients (c_l in the channel's formula), and the mean
itself moves by it, so a single client could drown or turn all others. Norms take the side channel before anything is
transmitted, and the server answers with amplitudes. So it can bound what each client sends by the others' norms *of the
same round*: no signal enters the air above norm-cap times the median norm. Then one of n clients

- moves the mean of a signal by at most norm-cap · median / n, whatever it sends, in every round alike (times the
  client's weight, where the mean is weighted);
- raises the noise of an estimate to at most that of clients who all send norm-cap · median.

With error feedback the rest of a clipped signal goes back into the client's memory, so that nothing is lost; without,
it is lost. There is no cap by default: honest gradients may be far from usual, too, and a cap then delays or loses a
part of them. A signal far beyond all that was usual so far (`ABSURD`) is never taken.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norms, to_device, to_host
from laser_fl.errors import TrainingError
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import owners
from laser_fl.shapes import Float64

ADVICE = "a lower learning-rate or more power may help"
LARGEST = torch.finfo(torch.float32).max  # a norm that is still a number where signals are scaled
ROUNDING = 2e-6  # relative, of the norms of float32 signals; less than the power's tolerance
CROWD = 3  # clients among which one stands out
ABSURD = 1e3  # times the largest median norm so far; honest signals were seen at 20 times their round's median

Norms = Float64[Tensor, "clients signals"]


class UsualNorms:
    """The largest median norm that each signal had in any exchange so far, over the transmitters.

    One bad client moves a median little. Between two transmitters nobody can tell which one is bad: then the larger
    norm is the usual one.
    """

    def __init__(self, largest: Mapping[str, float] | None = None) -> None:
        """largest: by signal, to go on from."""
        self.largest = dict(largest or {})

    def bounds(self, names: Sequence[str], received: Norms) -> np.ndarray:
        """Return the norm, per signal, above which one is absurd.

        It is `ABSURD` times the signal's largest median so far, or the median norm of this round's signals together,
        whichever is larger: the signal of a small block may be zero or a rounding error at most clients, and some
        value at one. Where most have nothing to send, or too few transmit to tell, there is no bound but `LARGEST`.

        Args:
            names: of the signals.
            received: norms of all transmitters; those that are no numbers do not count.
        """
        most = np.minimum(ABSURD * self._known(names), LARGEST)
        if (received.numpy() <= most).all():
            return most
        if len(received) < CROWD:
            return np.full(len(names), LARGEST)
        finite = torch.where(received.isfinite(), received, torch.nan)
        together = float(torch.linalg.vector_norm(finite, dim=1).nanmedian())
        most = np.fmax(most, ABSURD * together)
        return np.where(most > 0, np.minimum(most, LARGEST), LARGEST)

    def observe(self, names: Sequence[str], accepted: Norms) -> None:
        """Record the norms of an exchange, where anybody transmitted."""
        if len(accepted) == 0 or (accepted.numpy().max(axis=0) <= self._known(names)).all():
            return  # no median is above its largest norm
        middle = accepted.median(dim=0).values if len(accepted) >= CROWD else accepted.amax(dim=0)
        for name, norm in zip(names, middle.tolist(), strict=True):
            self.largest[name] = max(norm, self.largest.get(name, 0.0))

    def _known(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self.largest.get(name, 0.0) for name in names])


def clip_shares(names: Iterable[str], signal_norms: Norms, norm_cap: float) -> Norms | None:
    """Return the share of each client's signals at which none is above `norm_cap` times the median norm of the round.

    The signals of one block get one share, so that they go on to fit together. A signal that is zero at most clients
    has no median of its own; its bound is `norm_cap` times the median of the norms of all signals together. Where most
    clients have nothing to send at all, that is 0, and nothing is sent.

    Args:
        names: of the signals; those of one block follow each other.
        signal_norms: of all that are sent in this exchange.
        norm_cap: the bound over the median, >= 1; inf: there is no bound.

    Returns:
        Shares in [0, 1], (clients, signals); None where no signal is above its bound, or where there are too few
        clients to tell what is usual.

    Example:
        >>> clip_shares(["w"], torch.tensor([[1.0], [1.5], [8.0]], dtype=torch.float64), norm_cap=2.0)
        tensor([[1.0000],
                [1.0000],
                [0.3750]], dtype=torch.float64)
    """
    if math.isinf(norm_cap) or len(signal_norms) < CROWD or signal_norms.shape[1] == 0:
        return None
    middle = signal_norms.median(dim=0).values
    if not middle.all():
        together = torch.linalg.vector_norm(signal_norms, dim=1).median()
        middle = torch.where(middle > 0, middle, together)
    most = norm_cap * middle
    shares = _shares_within(most, signal_norms)
    if (shares == 1).all():
        return None
    each = list(owners(names).values())
    if len(each) == shares.shape[1]:
        return shares
    per_block = [part.amin(dim=1, keepdim=True).expand_as(part) for part in torch.split(shares, each, dim=1)]
    return torch.cat(per_block, dim=1)


def _shares_within(most: Float64[Tensor, " signals"], measured: Norms) -> Norms:
    """Return the share of each norm that is within its bound, exactly 1 where it is no more than rounding above."""
    return torch.where(measured <= most * (1 + ROUNDING), 1.0, most / measured)


def clip_deviations(values: Tensors, clients: int, norm_cap: float) -> Tensors:
    """Return values that clients report, none further from the middle than `norm_cap` times the median distance.

    The middle is the median over the clients, value by value. What is not further away stays as it is, bit by bit.

    Args:
        values: by name (clients, *shape).
        clients: their number.
        norm_cap: as for `clip_shares`.
    """
    if math.isinf(norm_cap) or clients < CROWD or not values:
        return values
    middles = {name: value.median(dim=0).values for name, value in values.items()}
    apart = {name: value - middles[name] for name, value in values.items()}
    distances = norms(apart, clients).cpu()
    shares = _shares_within(norm_cap * distances.median(dim=0).values, distances)
    clipped = {}
    for index, (name, value) in enumerate(values.items()):
        share = shares[:, index].to(value.device)
        clipped[name] = torch.where(along(share, value) < 1, middles[name] + along(share, value) * apart[name], value)
    return clipped


def with_unsent(
    memory: Tensors, approximations: Mapping[str, Approximation], unsent: Sequence[Mapping[str, float] | None]
) -> Tensors:
    """Return the memory with the share of each approximation that was not sent after all.

    Args:
        memory: by block (clients, *shape), contiguous; left as it is.
        approximations: by block, a row for each client.
        unsent: of each client: by block, the share of its approximation, in [0, 1]; a missing one is 0; None: all of
            all.
    """
    result = dict(memory)
    for name, approximation in approximations.items():
        shares = torch.tensor([1.0 if one is None else one.get(name, 0.0) for one in unsent], dtype=torch.float64)
        if shares.any():
            whole = memory[name].clone()
            approximation.add_to_(whole)
            share = along(to_device(shares, whole.device), whole)
            result[name] = torch.lerp(memory[name], whole, share)  # exact at 0 and at 1
    return result


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
