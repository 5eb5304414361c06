"""What every scheme is: pure functions over explicit state."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.rng import Streams
from laser_fl.schemes.approximation import Kept
from laser_fl.theory import best_share

Shapes = dict[str, tuple[int, ...]]  # by a signal's name


@dataclass(frozen=True)
class Context:
    """What both sides of the air know of an exchange.

    blocks: the model's blocks, in order.
    round: counted from 0. phase: counted from 0, below the scheme's number of phases.
    updates: rounds before this one that gave an update; round, unless there were silent ones.
    power: the power budget of this exchange, linear; inf on a noiseless channel.
    noise_std: standard deviation of the channel noise per value, as both sides expect it; 0 at infinite power.
    clients: number of clients k of the run.
    present: numbers of the clients that take part in this round, rising. speakers: of those that
        transmit; they are the rows of signals.
    averaged: number of clients that the server's mean is over: with error feedback those
        present, since the silent ones' gradients come later, else the speakers.
    bits: what each speaker's link carries in this exchange, for digital schemes.
    streams: the run's randomness.
    """

    blocks: tuple[Block, ...]
    round: int
    phase: int
    updates: int
    power: float
    noise_std: float
    clients: int
    present: tuple[int, ...]
    speakers: tuple[int, ...]
    averaged: int
    bits: tuple[float, ...]
    streams: Streams

    @cached_property
    def size(self) -> int:
        """Number of values of the model."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def best_share(self) -> float:
        """The part of the model's values that the power carries best."""
        return best_share(self.power, self.noise_std**2, self.clients, self.size)

    def of(self, clients: Container[int]) -> "Context":
        """The same exchange as some of the clients see it."""
        speaking = [(c, bits) for c, bits in zip(self.speakers, self.bits, strict=True) if c in clients]
        return replace(
            self,
            present=tuple(client for client in self.present if client in clients),
            speakers=tuple(client for client, _ in speaking),
            bits=tuple(bits for _, bits in speaking),
        )


@dataclass(frozen=True)
class Heard:
    """The server's estimates of the mean signals.

    values: for each signal, shape = the signal's without the clients axis.
    noise_std: standard deviation of the noise in each value of a signal, in the signal's unit.
    """

    values: Tensors
    noise_std: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Promises:
    """What a scheme promises; the shared tests hold it to them.

    linear: the mean of the signals is the signal of the mean.
    error_feedback: what was not sent is remembered and sent later.
    noiseless: the scheme is defined on ideal links without noise (P = inf), up and down.
    digital: signals are messages of bits, which arrive exactly.
    phase_shares: the exchanges of a round, and the share of its budget that each gets where all have something to send.
    bits_per_value: what a digital link would need for a value sent.
    receiver: the name of the receiver that belongs to it.
    """

    linear: bool = False
    error_feedback: bool = False
    noiseless: bool = False
    digital: bool = False
    phase_shares: tuple[float, ...] = (1.0,)
    bits_per_value: int = 32
    receiver: str = "plain"


class Scheme(ABC):
    """A transmission scheme: a frozen dataclass of hyperparameters with pure functions."""

    @property
    @abstractmethod
    def promises(self) -> Promises:
        """What the scheme promises."""

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Make the state that server and clients share before the first round; by default none."""
        return {}

    @abstractmethod
    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Turn corrected gradients into signals, and say which part of them the signals stand for.

        corrected: per block, (speakers, *shape). Returns (signals, kept): signals by name,
        (speakers, *signal shape); kept per block. Blocks that take no part in this phase have no
        signal; what is kept of a block is stated once a round, and only where the scheme has error
        feedback need it be. With error feedback no signal may share its memory with `corrected`.
        """

    @abstractmethod
    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Turn what was heard into (update per block, next shared state); no update before the last phase."""

    def noise_energies(self, heard: Heard, ctx: Context) -> Tensors:
        """The expected energy of the noise in every block of the update; float64 scalars.

        heard: in the last phase. By default each value that was heard moves the update by as much as it moves itself:
        it goes where it belongs, or is multiplied with orthonormal vectors.
        """
        energies: Tensors = {}
        for name, value in heard.values.items():
            block = name.partition(PART)[0]
            energies[block] = energies.get(block, 0.0) + heard.noise_std[name].double().square() * value.numel()
        return energies

    def weighs(self, ctx: Context) -> bool:
        """Whether a receiver is to weigh what was heard in this exchange; by default it is."""
        return True

    @abstractmethod
    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """The signals that a client sends for `block` in this exchange, and their shapes."""

    def shared_shapes(self, block: Block, ctx: Context) -> Shapes:
        """What server and clients share for `block` before this exchange, and its shapes; by default nothing."""
        return {}

    def fits(self, shared: Tensors, ctx: Context) -> bool:
        """Whether shared state is as it must be before this exchange."""
        shapes = {name: shape for block in ctx.blocks for name, shape in self.shared_shapes(block, ctx).items()}
        return {name: tuple(tensor.shape) for name, tensor in shared.items()} == shapes

    def values(self, block: Block, ctx: Context) -> int:
        """How many values a client sends for `block` in this exchange."""
        return sum(prod(shape) for shape in self.shapes(block, ctx).values())

    def signals(self, block: Block, ctx: Context) -> int:
        """How many signals a client sends for `block` in this exchange that need a norm and an amplitude."""
        return len(self.shapes(block, ctx))

    def volume(self, ctx: Context) -> int:
        """How many values a client sends in this exchange."""
        return sum(self.values(block, ctx) for block in ctx.blocks)

    def payload(self, values: Int64[Tensor, "*clients"], ctx: Context) -> Float64[Tensor, "*clients"]:
        """Bits that a digital link needs for so many values."""
        return values.double() * self.promises.bits_per_value

    def speaks(self, bits: float, blocks: tuple[Block, ...]) -> bool:
        """Whether a client whose link carries `bits` has anything to say on it."""
        return True

    def block_norm(self, norms: Float64[Tensor, "clients parts"]) -> Float64[Tensor, " clients"]:
        """The norm that stands for a block in the power allocation, in the gradient's unit; by default of all parts."""
        result: Tensor = torch.linalg.vector_norm(norms, dim=1)
        return result

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: Context
    ) -> Float64[Tensor, " parts"]:
        """Share a block's power among its signals, where it has several; by default equally.

        norms: of the parts, in their order. power: the block's budget. Returns shares of sum 1.
        """
        return torch.full_like(norms[0], 1 / norms.shape[1])


def owners(signals: Iterable[str]) -> dict[str, int]:
    """How many of the signals each block has, by their names and in their order."""
    return dict(Counter(signal.partition(PART)[0] for signal in signals))
