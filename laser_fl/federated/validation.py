"""Validation of the replies to a broadcast: the server accepts the valid ones.

An invalid reply costs only its own clients the round: they are left out of it, by number and with the reason, and
their gradients wait in their memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norms, to_host
from laser_fl.channels.exchange import ClientUpdate, join, values_sent
from laser_fl.clipping import ABSURD, ADVICE, CROWD, LARGEST, ROUNDING, UsualNorms
from laser_fl.errors import brief
from laser_fl.schemes.base import RoundContext, Scheme, owners
from laser_fl.shapes import Float64

Kind = Literal["raised", "late", "malformed", "round", "twice", "names", "shapes", "not-finite", "norm", "buffers"]

VARIANCE = "running_var"  # how the names of a batch norm's variances end, in PyTorch

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

    dtype: of signals. buffers: of the model, where clients send theirs. usual_norms: of the run's signals so far.
    """

    exchange: int
    context: RoundContext
    scheme: Scheme
    dtype: torch.dtype
    buffers: Tensors
    usual_norms: UsualNorms

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
        found = (
            *self._too_long(client_update, clients),
            *self._faults_in(client_update, clients, seen.signal_norms),
            *self._faults_of_buffers(client_update, clients, seen),
        )
        bad = {fault.client: fault for fault in found}
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
    ) -> tuple[ClientUpdate, "_Seen"]:
        """Return the update with its reports on the CPU, and what was received, measured. A GPU is waited for once.

        Args:
            client_update: of all accepted replies.
            clients: their numbers.
            own: True where this process has measured the signals' norms already.
        """
        u = client_update
        received = u.signal_norms if own else norms(u.signals, len(self.context.of(clients).transmitters))
        seen = _Seen(received, norms(u.buffers, len(clients)), _least_variances(u.buffers, len(clients)))
        if not any(part.is_cuda for part in (u.signal_norms, u.losses, *seen)):
            return client_update, seen
        signal_norms, gradient_norms, losses, *parts = to_host(u.signal_norms, u.gradient_norms, u.losses, *seen)
        here = replace(u, signal_norms=signal_norms, gradient_norms=gradient_norms, losses=losses)
        return here, _Seen(signal_norms if own else parts[0], *parts[1:])

    def _faults_in(self, client_update: ClientUpdate, clients: tuple[int, ...], received: Norms) -> Iterator[Fault]:
        """Yield the clients' faults: values that are not finite, norms that are absurd or not as reported.

        Args:
            client_update: its reports on the CPU.
            clients: their numbers.
            received: the signals' norms.
        """
        reported, gradient_norms = client_update.signal_norms.numpy(), client_update.gradient_norms.numpy()
        names, measured = list(client_update.signals), received.numpy()
        whole = np.abs(client_update.losses.numpy()) < LARGEST
        most = self.usual_norms.bounds(names, received)
        with np.errstate(invalid="ignore"):
            fits = (measured <= most) & (np.abs(measured - reported) <= ROUNDING * measured)
        if whole.all() and fits.all() and ((gradient_norms >= 0) & (gradient_norms < LARGEST)).all():
            return
        for client in (client for client, one in zip(clients, whole.tolist(), strict=True) if not one):
            yield Fault(client, "not-finite", f"its gradient or loss is not finite; {ADVICE}")
        blocks = list(owners(client_update.signals))
        for row, client in enumerate(self.context.of(clients).transmitters):
            values = zip(names, measured[row].tolist(), reported[row].tolist(), most.tolist(), strict=True)
            wrong = [*_broken(blocks, gradient_norms[row].tolist()), *_absurd(values)]
            if wrong:
                yield Fault(client, *wrong[0])

    def _faults_of_buffers(
        self, client_update: ClientUpdate, clients: tuple[int, ...], seen: "_Seen"
    ) -> Iterator[Fault]:
        """Yield the clients whose buffers are not finite, absurd, or a negative variance, which would end the run."""
        measured, least = seen.buffer_norms.numpy(), seen.least_variances.numpy()
        if (measured <= ABSURD).all() and (least >= 0).all():  # so are those of nearly all models
            return
        most = self._most_of_buffers(seen.buffer_norms)
        for row, client in enumerate(clients):
            for name, norm, bound in zip(client_update.buffers, measured[row].tolist(), most, strict=True):
                if not norm < LARGEST:
                    yield Fault(client, "not-finite", f"the buffer {name} is not finite (norm {norm}); {ADVICE}")
                elif norm > bound:
                    yield Fault(client, "buffers", f"the buffer {name} has the norm {norm:.3g}, above {bound:.3g}")
            if least[row] < 0:
                yield Fault(client, "buffers", f"a variance among its buffers is negative, {least[row]:.3g}")

    def _most_of_buffers(self, buffer_norms: Norms) -> list[float]:
        """Return the largest valid norm of each buffer: `ABSURD` times the median, the server's own, or 1.

        Fewer clients than a crowd cannot tell: features may be far from the ones that a fresh batch norm assumes.
        """
        if len(buffer_norms) < CROWD:
            return [LARGEST] * buffer_norms.shape[1]
        own = norms({name: buffer.unsqueeze(0) for name, buffer in self.buffers.items()}, 1)[0].cpu()
        finite = torch.where(buffer_norms.isfinite(), buffer_norms, torch.nan)
        usual = torch.fmax(own.clamp(min=1.0), finite.nanmedian(dim=0).values)
        most: list[float] = (ABSURD * usual).tolist()
        return most

    def _too_long(self, client_update: ClientUpdate, clients: tuple[int, ...]) -> Iterator[Fault]:
        """Yield the faults of digital messages that exceed the capacity of their links."""
        ctx = self.context.of(clients)
        if not self.scheme.traits.digital or not client_update.signals:
            return
        payload = self.scheme.payload(values_sent(client_update.signals), ctx).tolist()
        for client, sent, room in zip(ctx.transmitters, payload, ctx.bits, strict=True):
            if sent > room:
                yield Fault(client, "malformed", f"its message has {sent:.1f} bits, its link carries {room:.1f}")


class _Seen(NamedTuple):
    """The measures of what was received: norms, (transmitters, signals) and (clients, buffers), and least variances."""

    signal_norms: Norms
    buffer_norms: Float64[Tensor, "clients buffers"]
    least_variances: Float64[Tensor, " clients"]


def _least_variances(buffers: Tensors, clients: int) -> Float64[Tensor, " clients"]:
    """Return each client's smallest variance; 0 where the model has none."""
    variances = [as_rows(buffer) for name, buffer in buffers.items() if name.endswith(VARIANCE)]
    if not variances:
        return torch.zeros(clients, dtype=torch.float64)
    return torch.cat(variances, dim=1).amin(dim=1).double()


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
