"""The walk of a gradient through the air: `send` at a client, `receive` at the server.

        client i                                  server
    gradient + memory = corrected
    encode -> signal, kept
    memory = corrected - kept
    norms  ----------- side channel ---------->   allocation: shares of the power budget
    signal ----------- the air ----------------> links: mean signal + noise
                                                  decode -> update, next shared state

Every tensor of gradients, signals and memories has a leading clients axis: one client is the
case clients = 1, and many clients on one machine are one batched call. The rows of gradients and
memories are the clients present in the round, those of signals the speakers among them: a
client in a deep fade is present, but silent, and remembers all of its gradient.

Source: paper, Algorithm 1 and §G.5.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows
from laser_fl.channels import mac, orthogonal
from laser_fl.channels.base import Links, Usage
from laser_fl.channels.downlink import Downlink
from laser_fl.clipping import along, refuse_overflow, share_within, without_broken
from laser_fl.errors import TrainingError
from laser_fl.federated.acknowledgements import Pending, Receipts
from laser_fl.federated.replica import News, State
from laser_fl.norms import norms
from laser_fl.power.split import Allocation, signal_powers
from laser_fl.schemes.approximation import Kept
from laser_fl.schemes.base import Context, Heard, Scheme, owners


@dataclass(frozen=True)
class Broadcast:
    """What the server tells every client before it sends: the model, how to encode, the round.

    weights: by name; (clients, *shape) where clients have their `own_weights`, having heard
        the server under noise of their own, or stepped by themselves.
    downlink: what the weights are, before anybody has heard them.
    buffers: of the model (a batch-norm's running mean and variance); noiseless.
    told: where nodes make weights and shared state by themselves: what the server heard last, or
        all that they need to begin.
    receipts: which exchange this is, and what of earlier ones was taken.
    caps: the largest norm that a signal may have, by its name, where there is one.
    """

    weights: Tensors
    shared: Tensors
    scheme: Scheme
    context: Context
    downlink: Downlink = field(default_factory=Downlink)
    own_weights: bool = False
    buffers: Tensors = field(default_factory=dict)
    told: News | State | None = None
    receipts: Receipts = field(default_factory=Receipts)
    caps: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_news(self) -> bool:
        """True where it takes a replica to make use of it."""
        return isinstance(self.told, News)

    def of(self, clients: Container[int]) -> "Broadcast":
        """The same broadcast as some of the clients see it."""
        return replace(self, context=self.context.of(clients))


@dataclass(frozen=True)
class Uplink:
    """What clients say in one exchange.

    signals: by name (speakers, *signal shape); this goes through the air. Those of one block
        follow each other.
    signal_norms: per signal; gradient_norms: per block, of the corrected gradients; both go
        through the noiseless side channel.
    losses: training loss of each client present; bookkeeping, not transmitted.
    buffers: of each client's model, (clients present, *shape), through the side channel.
    pending: what the signals stand for; this stays with the clients.
    """

    signals: Tensors
    signal_norms: Float64[Tensor, "speakers signals"]
    gradient_norms: Float64[Tensor, "speakers blocks"]
    losses: Float64[Tensor, " clients"]
    buffers: Tensors = field(default_factory=dict)
    pending: tuple[Pending, ...] = ()

    @classmethod
    def silent(cls, losses: Float64[Tensor, " clients"], buffers: Tensors) -> "Uplink":
        """What clients say of whom none speaks."""
        nothing = torch.zeros(0, 0, dtype=torch.float64)
        return cls({}, nothing, nothing, losses, buffers)

    @classmethod
    def none(cls) -> "Uplink":
        """What is said where nobody is present."""
        return cls.silent(torch.zeros(0, dtype=torch.float64), {})

    def of(self, present: list[int], speaking: list[int]) -> "Uplink":
        """Some rows of it, of those present and of the speakers, in their order; nothing is pending with the server."""
        return Uplink(
            {name: signal[speaking] for name, signal in self.signals.items()},
            self.signal_norms[speaking],
            self.gradient_norms[speaking],
            self.losses[present],
            {name: buffer[present] for name, buffer in self.buffers.items()},
        )


@dataclass(frozen=True)
class Reception:
    """What the server made of an exchange.

    heard: None in a round in which nobody spoke.
    update: None until the scheme's last phase, and in a round in which nobody spoke. noise: the expected energy of
        the noise in each of its blocks. weighs: whether a receiver is to weigh it by that.
    side_channel_floats: amplitudes down, per client.
    """

    heard: Heard | None
    update: Tensors | None
    shared: Tensors
    usage: Usage
    side_channel_floats: int
    noise: Tensors = field(default_factory=dict)
    weighs: bool = True


def send(
    broadcast: Broadcast,
    gradients: Tensors | None,
    losses: Tensor,
    memory: Tensors,
    buffers: Tensors | None = None,
    in_place: bool = False,
) -> tuple[Uplink, Tensors]:
    """The client's half: correct, encode, remember what was left out.

    gradients: per block (clients present, *shape); None after the first phase of a round, whose
    gradient then waits in the memory. memory: per block likewise; empty at first, and always
    for schemes without error feedback. buffers: of the model after the round's forward passes, where
    it has any. in_place: the next memory takes the place of `memory`, where there is one, and the
    gradients may be overwritten; for callers that own both. Returns the uplink and the next memory.

    A signal whose norm is above the broadcast's cap is sent at the cap; its client remembers the rest where the
    scheme has error feedback, else it is lost. A gradient that is not finite is not remembered; its client reports a
    loss of NaN, and is left out.

    Raises:
        TrainingError: a block of the model has no gradient (a buffer is no block).
    """
    scheme, ctx = broadcast.scheme, broadcast.context
    remembers, buffers = scheme.promises.error_feedback, buffers or {}
    if remembers and gradients is not None:
        gradients, losses = without_broken(gradients, losses)
    corrected = _correct(memory, gradients, in_place) if remembers else gradients or {}
    if missing := [block.name for block in ctx.blocks if block.name not in corrected]:
        raise TrainingError(f"round {ctx.round + 1}: there is no gradient for the blocks {', '.join(missing)}")
    if not ctx.speakers:
        return Uplink.silent(losses, buffers), corrected if remembers else {}
    rows = _rows_of(ctx.speakers, ctx.present)
    speaking = corrected if rows is None else {name: m[rows] for name, m in corrected.items()}
    said = _say(speaking, broadcast)
    held_back: Tensors = {}
    if (share := share_within(broadcast.caps, said.signal_norms, list(said.signals), list(speaking))) is not None:
        if scheme.promises.digital:  # a message is made of all blocks at once: smaller ones make room for others
            share = share.amin(dim=1, keepdim=True).expand_as(share)
        within = {name: m * along(share[:, i], m) for i, (name, m) in enumerate(speaking.items())}
        held_back = {name: m - within[name] for name, m in speaking.items()}
        speaking, said = within, _say(within, broadcast)
    uplink = Uplink(said.signals, said.signal_norms, said.gradient_norms, losses, buffers)
    if not remembers:
        return uplink, {}
    _leave(said.kept, speaking, held_back, corrected, rows)
    return replace(uplink, pending=(Pending(ctx.speakers, said.kept),)), corrected


def receive(
    uplink: Uplink,
    shared: Tensors,
    scheme: Scheme,
    links: Links,
    allocation: Allocation,
    ctx: Context,
    channel_uses: int = 0,
) -> Reception:
    """The server's half: share out the power, listen, decode. A round in which nobody spoke changes nothing.

    links: of the speakers. channel_uses: of an exchange by a digital scheme.

    Raises:
        PowerError: a digital message does not fit into its link.
        TrainingError: noise or signals are so large that the estimate or the update is no number.
    """
    if not ctx.speakers:
        return Reception(None, None, shared, Usage.none(0), 0)
    amplitudes = 0
    if not uplink.signals:  # a phase in which this model has nothing to say
        heard, usage = Heard({}, {}), Usage.none(len(ctx.speakers))
    elif scheme.promises.digital:
        payload = scheme.payload(values_sent(uplink.signals), ctx)
        heard, usage = orthogonal.deliver(uplink.signals, payload, channel_uses, ctx)
    else:
        names = list(uplink.signals)
        power = signal_powers(names, uplink.signal_norms, uplink.gradient_norms, scheme, allocation, ctx)
        heard, usage = mac.transmit(uplink.signals, uplink.signal_norms, power, links, ctx)
        amplitudes = len(names)
    refuse_overflow(heard.values, ctx.round)
    update, shared = scheme.decode(heard, shared, ctx)
    if update is not None and update is not heard.values:
        refuse_overflow(update, ctx.round)
    noise = {} if update is None else scheme.noise_energies(heard, ctx)
    return Reception(heard, update, shared, usage, amplitudes, noise, scheme.weighs(ctx))


def join(uplinks: list[Uplink]) -> Uplink:
    """Put the uplinks of several groups of clients, in order of clients, into one."""
    if len(uplinks) == 1:
        return uplinks[0]
    if not uplinks:
        return Uplink.none()
    losses = torch.cat([u.losses for u in uplinks])
    buffers = {name: torch.cat([u.buffers[name] for u in uplinks]) for name in uplinks[0].buffers}
    speaking = [u for u in uplinks if len(u.signal_norms) > 0]
    if not speaking:
        return Uplink.silent(losses, buffers)
    pending = tuple(one for u in speaking for one in u.pending)
    return Uplink(
        {name: torch.cat([u.signals[name] for u in speaking]) for name in speaking[0].signals},
        torch.cat([u.signal_norms for u in speaking]),
        torch.cat([u.gradient_norms for u in speaking]),
        losses,
        buffers,
        pending,
    )


@dataclass(frozen=True)
class _Said:
    """What speakers make of their gradients: signals with their norms, and what these stand for."""

    signals: Tensors
    signal_norms: Float64[Tensor, "speakers signals"]
    gradient_norms: Float64[Tensor, "speakers blocks"]
    kept: Mapping[str, Kept]


def _say(speaking: Tensors, broadcast: Broadcast) -> _Said:
    signals, kept = broadcast.scheme.encode(speaking, broadcast.shared, broadcast.context)
    speakers = len(broadcast.context.speakers)
    signal_norms = norms(signals, speakers)
    if signals is speaking:  # the gradient itself is sent, and its norms do for both
        return _Said(signals, signal_norms, signal_norms, kept)
    return _Said(signals, signal_norms, norms({name: speaking[name] for name in owners(signals)}, speakers), kept)


def _correct(memory: Tensors, gradients: Tensors | None, in_place: bool) -> Tensors:
    """Memory plus gradients, contiguous and in tensors that may be changed."""
    if not in_place:
        memory, gradients = _copied(memory), gradients and _copied(gradients)
    if gradients is None:
        return memory
    return {name: memory[name].add_(g) if name in memory else g for name, g in gradients.items()}


def _rows_of(speakers: tuple[int, ...], present: tuple[int, ...]) -> list[int] | None:
    """Where the speakers stand among those present; None where all speak."""
    if speakers == present:
        return None
    row = {client: index for index, client in enumerate(present)}
    return [row[speaker] for speaker in speakers]


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _leave(
    kept: Mapping[str, Kept], speaking: Tensors, held_back: Tensors, corrected: Tensors, rows: list[int] | None
) -> None:
    """Take what is kept out of the speakers' gradients, in place; those who were silent keep all of theirs.

    speaking: what was encoded; held_back: what was not, because of a cap.
    """
    for name, part in kept.items():
        part.leave_(speaking[name])
        rest = speaking[name] + held_back[name] if held_back else speaking[name]
        if rest is not corrected[name]:
            corrected[name][slice(None) if rows is None else rows] = rest


def reported(uplink: Uplink, scheme: Scheme) -> int:
    """Values that a client reports beside the air: buffers, and norms, of which a digital message needs none."""
    norms_up = 0 if scheme.promises.digital else uplink.signal_norms.shape[1] + uplink.gradient_norms.shape[1]
    return norms_up + sum(prod(buffer.shape[1:]) for buffer in uplink.buffers.values())


def values_sent(signals: Tensors) -> Int64[Tensor, " speakers"]:
    """How many values of each speaker's signals are not zero."""
    counts = [as_rows(signal).count_nonzero(dim=1) for signal in signals.values()]
    return torch.stack(counts).sum(dim=0)
