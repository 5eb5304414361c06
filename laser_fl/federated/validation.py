"""Validation of the replies to a broadcast: the server accepts the valid ones.

An invalid reply costs only its own clients the round: they are left out of it, by number and with the reason, and
their gradients wait in their memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norms, to_host
from laser_fl.channels.exchange import ClientUpdate, join, values_sent
from laser_fl.clipping import ADVICE, CROWD, LARGEST, ROUNDING
from laser_fl.errors import brief
from laser_fl.schemes.base import RoundContext, Scheme, owners
from laser_fl.shapes import Bool, Float64

Kind = Literal["raised", "late", "malformed", "round", "twice", "names", "shapes", "not-finite", "norm"]

ABSURD = 1e3  # times the median norm of the same exchange, as long as there is no norm bound
ABOVE = 1e-3  # relative excess of a norm over its bound that is accepted

Norms = Float64[Tensor, "transmitters signals"]
Form = tuple[tuple[int, ...], torch.dtype]  # shape and type of a part of a reply


@dataclass(frozen=True)
class Reply:
    """The reply of some clients to the broadcast of an exchange.

    exchange: its number. clients: their numbers, rising; the rows of the update.
    own: True where the server's own process has made it, and measured the norms that it reports.
    """

    exchange: int
    clients: tuple[int, ...]
    client_update: ClientUpdate
    own: bool = False


@dataclass(frozen=True)
class Fault:
    """The reason for which a client is left out of a round."""

    client: int
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"client {self.client}: {self.reason}"


@dataclass(frozen=True)
class AcceptedReplies:
    """The accepted part of an exchange's replies: the update of `clients`, rising, and the faults of the others."""

    client_update: ClientUpdate
    clients: tuple[int, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class ReplyValidator:
    """The validator of the replies to an exchange.

    dtype: of signals. buffers: of the model, where clients send theirs. norm_bounds: the largest norm that a signal may
    have, by its name, as far as known. bounded: True where the run has norm bounds at all.
    """

    exchange: int
    context: RoundContext
    scheme: Scheme
    dtype: torch.dtype
    buffers: Tensors
    norm_bounds: Mapping[str, float]
    bounded: bool = True

    def validate(self, replies: Sequence[Reply], known: Iterable[Fault] = ()) -> AcceptedReplies:
        """Check all replies. known: faults of clients whose replies never came."""
        faults = {fault.client: fault for fault in known}
        sound, single = [], []
        for reply in sorted(replies, key=lambda reply: reply.clients):
            wrong = next(self._faults_of(reply), None)
            if wrong is None:
                sound.append(reply)
            else:
                faults |= {client: Fault(client, *wrong) for client in reply.clients}
        claims = Counter(client for reply in sound for client in reply.clients) if len(sound) > 1 else Counter()
        for reply in sound:
            if twice := [client for client in reply.clients if claims[client] > 1]:
                reason = f"there were {claims[twice[0]]} replies of client {twice[0]}"
                faults |= {client: Fault(client, "twice", reason) for client in reply.clients}
            else:
                single.append(reply)
        client_update, clients = self._joined(single)
        client_update, seen = self._looked_at(client_update, clients, all(reply.own for reply in single))
        bad = {
            fault.client: fault
            for fault in (*self._too_long(client_update, clients), *self._faults_in(client_update, clients, *seen))
        }
        if bad:
            client_update, clients = self._without(bad, client_update, clients)
        lost = set(self.context.participants) - set(clients)
        faults = {client: Fault(client, "late", "no reply came") for client in lost} | faults | bad
        return AcceptedReplies(client_update, clients, tuple(faults[client] for client in sorted(lost)))

    def _faults_of(self, reply: Reply) -> Iterator[tuple[Kind, str]]:
        """Yield the faults of a reply as a whole; the first counts."""
        update = reply.client_update
        form = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _parts(update).items()}
        return self.faults_in_form(reply.exchange, reply.clients, form, reply.own and update.superposed)

    def faults_in_form(
        self, exchange: int, clients: tuple[int, ...], form: Mapping[str, Form], superposed: bool = False
    ) -> Iterator[tuple[Kind, str]]:
        """Yield the faults of a reply as a whole, for which none of its tensors is read; the first counts.

        Args:
            exchange: as in the reply.
            clients: as in the reply.
            form: shape and type of its parts, by their names.
            superposed: True where its signals are added up.
        """
        if exchange != self.exchange:
            yield "round", f"it replied to exchange {exchange} instead of {self.exchange}"
        if list(clients) != sorted(set(clients) & set(self.context.participants)):
            yield "malformed", f"it was sent for the clients {list(clients)[:5]}"
        if clients and (lacking := [name for name in self.buffers if f"buffer {name}" not in form]):
            yield "names", f"it lacks the buffers {_listed(lacking)}, which clients return with their gradients"
        wanted = self._form(clients, superposed)
        if list(form) != list(wanted):
            wrong = sorted(form.keys() ^ wanted.keys()) or ["their order"]
            yield "names", f"its parts are not those that the scheme sends: {_listed(wrong)}"
        for name, (shape, _) in wanted.items():
            if (got := form[name][0]) != shape:
                yield "shapes", f"{name} came as {brief(str(list(got)))}, not {list(shape)}"
        for name, (_, dtype) in wanted.items():
            if (kind := form[name][1]) != dtype:
                yield "shapes", f"{name} came as {kind}, not {dtype}"

    def _form(self, clients: tuple[int, ...], superposed: bool = False) -> dict[str, Form]:
        """Return the shapes and types that a reply's parts must have. superposed: its signals are added up."""
        ctx, participants, transmitters = self.context, len(clients), len(self.context.of(clients).transmitters)
        signals = {name: shape for block in ctx.blocks for name, shape in self.scheme.shapes(block, ctx).items()}
        signals = signals if transmitters else {}
        rows = 1 if superposed else transmitters
        buffers = self.buffers if participants else {}
        return {
            "norms of signals": ((transmitters, len(signals)), torch.float64),
            "norms of gradients": ((transmitters, len(owners(signals))), torch.float64),
            "losses": ((participants,), torch.float64),
            **{f"signal {name}": ((rows, *shape), self.dtype) for name, shape in signals.items()},
            **{f"buffer {name}": ((participants, *b.shape), b.dtype) for name, b in buffers.items()},
        }

    def _joined(self, replies: list[Reply]) -> tuple[ClientUpdate, tuple[int, ...]]:
        """Join the replies into one, in the order of clients."""
        client_update = join([reply.client_update for reply in replies if reply.clients])
        clients = tuple(client for reply in replies for client in reply.clients)
        if (rising := tuple(sorted(clients))) == clients:
            return client_update, clients
        transmitters = [client for client in clients if client in self.context.transmitters]
        order = [transmitters.index(client) for client in rising if client in self.context.transmitters]
        return client_update.of([clients.index(client) for client in rising], order), rising

    def _without(
        self, bad: Mapping[int, Fault], client_update: ClientUpdate, clients: tuple[int, ...]
    ) -> tuple[ClientUpdate, tuple[int, ...]]:
        transmitters = self.context.of(clients).transmitters
        participants = [row for row, client in enumerate(clients) if client not in bad]
        transmitting = [row for row, client in enumerate(transmitters) if client not in bad]
        return client_update.of(participants, transmitting), tuple(clients[row] for row in participants)

    def _looked_at(
        self, client_update: ClientUpdate, clients: tuple[int, ...], own: bool
    ) -> tuple[ClientUpdate, tuple[Norms, Bool[Tensor, " clients"]]]:
        """Return the update with its reports on the CPU; its signals' norms as received, and whose buffers are finite.

        A GPU is waited for once.

        Args:
            client_update: of all accepted replies.
            clients: their numbers.
            own: True where this process has measured the norms already.
        """
        received = client_update.signal_norms
        if not own:
            received = norms(client_update.signals, len(self.context.of(clients).transmitters))
        finite = _finite_rows(client_update.buffers, len(clients))
        if not (received.is_cuda or client_update.losses.is_cuda):
            return client_update, (received, finite)
        u = client_update
        parts = to_host(u.signal_norms, u.gradient_norms, u.losses, received, finite)
        here = replace(u, signal_norms=parts[0], gradient_norms=parts[1], losses=parts[2])
        return here, (parts[3], parts[4].bool())

    def _faults_in(
        self, client_update: ClientUpdate, clients: tuple[int, ...], received: Norms, finite: Bool[Tensor, " clients"]
    ) -> Iterator[Fault]:
        """Yield the clients' faults: values that are not finite, norms that are absurd or not as reported.

        Args:
            client_update: its reports on the CPU.
            clients: their numbers.
            received: the signals' norms.
            finite: True for the clients whose buffers are finite.
        """
        reported, gradient_norms = client_update.signal_norms.numpy(), client_update.gradient_norms.numpy()
        names, measured = list(client_update.signals), received.numpy()
        losses = np.abs(client_update.losses.numpy())
        own = received is client_update.signal_norms
        if own and not self.bounded and finite.all() and _below_largest(losses, measured, gradient_norms):
            return
        whole = finite.numpy() & (losses < LARGEST)
        most = self._most(names, received).numpy()
        with np.errstate(invalid="ignore"):
            fits = (measured <= most) & (np.abs(measured - reported) <= ROUNDING * measured)
        if whole.all() and fits.all() and ((gradient_norms >= 0) & (gradient_norms < LARGEST)).all():
            return
        for client in (client for client, one in zip(clients, whole.tolist(), strict=True) if not one):
            yield Fault(client, "not-finite", f"its gradient, loss or buffers are not finite; {ADVICE}")
        blocks = list(owners(client_update.signals))
        for row, client in enumerate(self.context.of(clients).transmitters):
            values = zip(names, measured[row].tolist(), reported[row].tolist(), most.tolist(), strict=True)
            wrong = [*_broken(blocks, gradient_norms[row].tolist()), *_absurd(values)]
            if wrong:
                yield Fault(client, *wrong[0])

    def _too_long(self, client_update: ClientUpdate, clients: tuple[int, ...]) -> Iterator[Fault]:
        """Yield the faults of digital messages that exceed the capacity of their links."""
        ctx = self.context.of(clients)
        if not self.scheme.traits.digital or not client_update.signals:
            return
        payload = self.scheme.payload(values_sent(client_update.signals), ctx).tolist()
        for client, sent, room in zip(ctx.transmitters, payload, ctx.bits, strict=True):
            if sent > room:
                yield Fault(client, "malformed", f"its message has {sent:.1f} bits, its link carries {room:.1f}")

    def _most(self, names: list[str], received: Norms) -> Float64[Tensor, " signals"]:
        """Return the largest valid norm of each signal: its bound, or else `ABSURD` times the median norm."""
        if not self.bounded:
            return torch.full((len(names),), LARGEST, dtype=torch.float64)
        norm_bounds = torch.tensor([self.norm_bounds.get(name, torch.nan) for name in names], dtype=torch.float64)
        if not norm_bounds.isnan().any():
            return (norm_bounds * (1 + ABOVE)).clamp(max=LARGEST)
        finite = torch.where(received.isfinite(), received, torch.nan)
        usual = finite.nanmedian(dim=0).values if len(received) >= CROWD else norm_bounds
        absurd = torch.where(usual > 0, ABSURD * usual, LARGEST)
        return torch.where(norm_bounds.isnan(), absurd, norm_bounds * (1 + ABOVE)).clamp(max=LARGEST)


def _below_largest(*values: np.ndarray) -> bool:
    """Return True where no value is NaN or as large as `LARGEST`."""
    return all(some.max(initial=0.0) < LARGEST for some in values)


def _finite_rows(buffers: Tensors, clients: int) -> Bool[Tensor, " clients"]:
    """Find the clients whose buffers are finite."""
    if not buffers:
        return torch.ones(clients, dtype=torch.bool)
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in buffers.values():
        by_type.setdefault(buffer.dtype, []).append(as_rows(buffer))
    return torch.stack([torch.cat(rows, dim=1).isfinite().all(dim=1) for rows in by_type.values()]).all(dim=0)


def _parts(client_update: ClientUpdate) -> Tensors:
    """Return all tensors of an update, by their names in messages."""
    return {
        "norms of signals": client_update.signal_norms,
        "norms of gradients": client_update.gradient_norms,
        "losses": client_update.losses,
        **{f"signal {name}": signal for name, signal in client_update.signals.items()},
        **{f"buffer {name}": buffer for name, buffer in client_update.buffers.items()},
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(brief, names[:3]))


def _broken(blocks: list[str], norms: list[float]) -> Iterator[tuple[Kind, str]]:
    """Yield the faults of blocks whose gradients are not finite, or whose reported norm is negative."""
    for name, norm in zip(blocks, norms, strict=True):
        if norm < 0:
            yield "norm", f"the gradient of block {name} is reported to have the norm {norm:.6g}"
        if not norm < LARGEST:
            yield "not-finite", f"the gradient of block {name} is not finite (norm {norm}); {ADVICE}"


def _absurd(values: Iterable[tuple[str, float, float, float]]) -> Iterator[tuple[Kind, str]]:
    """Yield the faults of signals, each given by name with its norm as received, as reported, and at most."""
    for name, norm, reported, most in values:
        if not (norm < LARGEST and reported < LARGEST):
            yield "not-finite", f"the signal {name} is not finite (norm {norm}); {ADVICE}"
        elif norm > most:
            yield "norm", f"the signal {name} has the norm {norm:.3g}, above {most:.3g}"
        elif abs(norm - reported) > ROUNDING * norm:
            yield "norm", f"the signal {name} has the norm {norm:.6g}, not {reported:.6g} as reported"
