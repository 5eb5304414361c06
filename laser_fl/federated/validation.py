"""What comes back of a broadcast, and which of it the server takes.

A reply that is not as it must be costs its clients the round, and nobody else: they are left out of it, by number
and with the reason, and what they had to say waits in their memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows
from laser_fl.clipping import ADVICE, CROWD, LARGEST, ROUNDING
from laser_fl.errors import brief
from laser_fl.norms import norms
from laser_fl.pipeline import Uplink, join, values_sent
from laser_fl.schemes.base import Context, Scheme, owners

Kind = Literal["raised", "late", "malformed", "round", "twice", "names", "shapes", "not-finite", "norm"]

ABSURD = 1e3  # times the median norm of the same exchange, as long as there is no cap
ABOVE = 1e-3  # what a norm may be above its cap, relative

Norms = Float64[Tensor, "speakers signals"]


@dataclass(frozen=True)
class Reply:
    """What some clients say to the broadcast of an exchange. clients: their numbers, rising; the uplink's rows."""

    exchange: int
    clients: tuple[int, ...]
    uplink: Uplink


@dataclass(frozen=True)
class Fault:
    """Why a client is left out of a round."""

    client: int
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"client {self.client}: {self.reason}"


@dataclass(frozen=True)
class Taken:
    """What the server takes of an exchange's replies: the uplink of `clients`, rising, and why others are left out."""

    uplink: Uplink
    clients: tuple[int, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Expected:
    """What replies to an exchange must be like.

    dtype: of signals. buffers: of the model, where clients send theirs. caps: on the norms of signals, as far as they
    are known; capped: whether there are any at all.
    """

    exchange: int
    context: Context
    scheme: Scheme
    dtype: torch.dtype
    buffers: Tensors
    caps: Mapping[str, float]
    capped: bool = True

    def take(self, replies: Sequence[Reply], known: Iterable[Fault] = ()) -> Taken:
        """Look all replies over. known: faults of clients whose replies never came."""
        faults = {fault.client: fault for fault in known}
        sound, single = [], []
        for reply in sorted(replies, key=lambda reply: reply.clients):
            wrong = next(self._faults_of(reply), None)
            if wrong is None:
                sound.append(reply)
            else:
                faults |= {client: Fault(client, *wrong) for client in reply.clients}
        claims = Counter(client for reply in sound for client in reply.clients)
        for reply in sound:
            if twice := [client for client in reply.clients if claims[client] > 1]:
                reason = f"there were {claims[twice[0]]} answers of client {twice[0]}"
                faults |= {client: Fault(client, "twice", reason) for client in reply.clients}
            else:
                single.append(reply)
        uplink, clients = self._joined(single)
        bad = {fault.client: fault for fault in (*self._too_long(uplink, clients), *self._faults_in(uplink, clients))}
        if bad:
            uplink, clients = self._without(bad, uplink, clients)
        lost = set(self.context.present) - set(clients)
        faults = {client: Fault(client, "late", "no reply came") for client in lost} | faults | bad
        return Taken(uplink, clients, tuple(faults[client] for client in sorted(lost)))

    def _faults_of(self, reply: Reply) -> Iterator[tuple[Kind, str]]:
        """What is wrong with a reply as a whole; the first counts."""
        if reply.exchange != self.exchange:
            yield "round", f"it replied to exchange {reply.exchange} instead of {self.exchange}"
        if list(reply.clients) != sorted(set(reply.clients) & set(self.context.present)):
            yield "malformed", f"it was sent for the clients {list(reply.clients)[:5]}"
        got, wanted = _parts(reply.uplink), self._shapes(reply.clients)
        if list(got) != list(wanted):
            wrong = sorted(got.keys() ^ wanted.keys()) or ["their order"]
            yield "names", f"what it holds is not what the scheme sends: {', '.join(map(brief, wrong[:3]))}"
        for name, tensor in got.items():
            if tuple(tensor.shape) != wanted.get(name):
                yield "shapes", f"{name} came as {list(tensor.shape)}, not {list(wanted.get(name, ()))}"
        types = {f"signal {name}": self.dtype for name in reply.uplink.signals}
        types |= {f"buffer {name}": buffer.dtype for name, buffer in self.buffers.items()}
        for name, tensor in got.items():
            if tensor.dtype != (dtype := types.get(name, torch.float64)):
                yield "shapes", f"{name} came as {tensor.dtype}, not {dtype}"

    def _shapes(self, clients: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of a reply's parts."""
        ctx, present, speakers = self.context, len(clients), len(self.context.of(clients).speakers)
        signals = {name: shape for block in ctx.blocks for name, shape in self.scheme.shapes(block, ctx).items()}
        signals = signals if speakers else {}
        return {
            "losses": (present,),
            "signal norms": (speakers, len(signals)),
            "gradient norms": (speakers, len(owners(signals))),
            **{f"signal {name}": (speakers, *shape) for name, shape in signals.items()},
            **{f"buffer {name}": (present, *b.shape) for name, b in self.buffers.items() if present},
        }

    def _joined(self, replies: list[Reply]) -> tuple[Uplink, tuple[int, ...]]:
        """All of them as one, in the order of clients."""
        uplink = join([reply.uplink for reply in replies if reply.clients])
        clients = tuple(client for reply in replies for client in reply.clients)
        if (rising := tuple(sorted(clients))) == clients:
            return uplink, clients
        speakers = [client for client in clients if client in self.context.speakers]
        order = [speakers.index(client) for client in rising if client in self.context.speakers]
        return uplink.of([clients.index(client) for client in rising], order), rising

    def _without(
        self, bad: Mapping[int, Fault], uplink: Uplink, clients: tuple[int, ...]
    ) -> tuple[Uplink, tuple[int, ...]]:
        speakers = self.context.of(clients).speakers
        present = [row for row, client in enumerate(clients) if client not in bad]
        speaking = [row for row, client in enumerate(speakers) if client not in bad]
        return uplink.of(present, speaking), tuple(clients[row] for row in present)

    def _faults_in(self, uplink: Uplink, clients: tuple[int, ...]) -> Iterator[Fault]:
        """Values that are not finite, norms that are absurd or not as reported."""
        speakers = self.context.of(clients).speakers
        reported, gradient_norms = uplink.signal_norms.cpu(), uplink.gradient_norms.cpu()
        received = norms(uplink.signals, len(speakers)).cpu()
        finite, most = _finite_rows(uplink), self._most(list(uplink.signals), received)
        fits = (received <= most) & ((received - reported).abs() <= ROUNDING * received)
        if finite.all() and fits.all() and ((gradient_norms >= 0) & (gradient_norms < LARGEST)).all():
            return
        for client in (client for client, whole in zip(clients, finite.tolist(), strict=True) if not whole):
            yield Fault(client, "not-finite", f"its gradient, loss or buffers are not finite; {ADVICE}")
        blocks, names = list(owners(uplink.signals)), list(uplink.signals)
        for row, client in enumerate(speakers):
            values = zip(names, received[row].tolist(), reported[row].tolist(), most.tolist(), strict=True)
            wrong = [*_broken(blocks, gradient_norms[row].tolist()), *_absurd(values)]
            if wrong:
                yield Fault(client, *wrong[0])

    def _too_long(self, uplink: Uplink, clients: tuple[int, ...]) -> Iterator[Fault]:
        """Digital messages that their links do not carry."""
        ctx = self.context.of(clients)
        if not self.scheme.promises.digital or not uplink.signals:
            return
        payload = self.scheme.payload(values_sent(uplink.signals), ctx).tolist()
        for client, sent, room in zip(ctx.speakers, payload, ctx.bits, strict=True):
            if sent > room:
                yield Fault(client, "malformed", f"its message has {sent:.1f} bits, its link carries {room:.1f}")

    def _most(self, names: list[str], received: Norms) -> Float64[Tensor, " signals"]:
        """The largest norm that is no fault, of each signal: its cap, or else what is absurd beside the others'."""
        caps = torch.tensor([self.caps.get(name, torch.nan) for name in names], dtype=torch.float64)
        if not caps.isnan().any():
            return (caps * (1 + ABOVE)).clamp(max=LARGEST)
        finite = torch.where(received.isfinite(), received, torch.nan)
        usual = finite.nanmedian(dim=0).values if len(received) >= CROWD and self.capped else caps
        absurd = torch.where(usual > 0, ABSURD * usual, LARGEST)
        return torch.where(caps.isnan(), absurd, caps * (1 + ABOVE)).clamp(max=LARGEST)


def _finite_rows(uplink: Uplink) -> Bool[Tensor, " clients"]:
    """The clients whose losses and buffers are finite, and whose losses have a mean that is, too."""
    fine = uplink.losses.cpu().abs() < LARGEST
    for buffer in uplink.buffers.values():
        fine &= as_rows(buffer).isfinite().all(dim=1).cpu()
    return fine


def _parts(uplink: Uplink) -> Tensors:
    """All that an uplink holds, by what it is."""
    return {
        "losses": uplink.losses,
        "signal norms": uplink.signal_norms,
        "gradient norms": uplink.gradient_norms,
        **{f"signal {name}": signal for name, signal in uplink.signals.items()},
        **{f"buffer {name}": buffer for name, buffer in uplink.buffers.items()},
    }


def _broken(blocks: list[str], norms: list[float]) -> Iterator[tuple[Kind, str]]:
    """Blocks whose gradients are not finite, or have no such norm."""
    for name, norm in zip(blocks, norms, strict=True):
        if norm < 0:
            yield "norm", f"the gradient of block {name} is reported to have the norm {norm:.6g}"
        if not norm < LARGEST:
            yield "not-finite", f"the gradient of block {name} is not finite (norm {norm}); {ADVICE}"


def _absurd(values: Iterable[tuple[str, float, float, float]]) -> Iterator[tuple[Kind, str]]:
    """Signals, each with its norm as received, as reported, and at most, that are not as they must be."""
    for name, norm, told, most in values:
        if not (norm < LARGEST and told < LARGEST):
            yield "not-finite", f"the signal {name} is not finite (norm {norm}); {ADVICE}"
        elif norm > most:
            yield "norm", f"the signal {name} has the norm {norm:.3g}, above {most:.3g}"
        elif abs(norm - told) > ROUNDING * norm:
            yield "norm", f"the signal {name} has the norm {norm:.6g}, not {told:.6g} as reported"
