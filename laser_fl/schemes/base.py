"""The interface of transmission schemes: pure functions over explicit state."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors, to_device
from laser_fl.errors import TrainingError
from laser_fl.registry import check_options
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation
from laser_fl.shapes import Float, Float64, Int64
from laser_fl.theory import best_share

Shapes = dict[str, tuple[int, ...]]  # by a signal's name


@dataclass(frozen=True)
class RoundContext:
    """Facts of an exchange that both sides of the air know.

    blocks: the model's blocks, in order.
    round: counted from 0. phase: counted from 0, below the scheme's number of phases.
    updates: rounds before this one that gave an update; equal to `round`, unless nobody transmitted in some of them.
    power: the power budget of this exchange, linear; inf on a noiseless channel.
    noise_std: standard deviation of the channel noise per value, as both sides expect it; 0 at infinite power.
    clients: number of clients k of the run.
    participants: numbers of the clients that take part in this round, rising. transmitters: of the participants that
        transmit; they are the rows of signals.
    averaged: number of clients that the server's mean is over: with error feedback the participants, since the
        gradients of those in outage come later, else the transmitters.
    bits: capacity of each transmitter's link in this exchange, for digital schemes.
    streams: the run's randomness.
    """

    blocks: tuple[Block, ...]
    round: int
    phase: int
    updates: int
    power: float
    noise_std: float
    clients: int
    participants: tuple[int, ...]
    transmitters: tuple[int, ...]
    averaged: int
    bits: tuple[float, ...]
    streams: RandomStreams

    @cached_property
    def size(self) -> int:
        """Number of values of the model."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def best_share(self) -> float:
        """Share of the model's values that is best to send at this power, in (0, 1]."""
        return best_share(self.power, self.noise_std**2, self.clients, self.size)

    def of(self, clients: Container[int]) -> "RoundContext":
        """Return the same exchange as some of the clients see it."""
        if all(map(clients.__contains__, self.participants)):
            return self
        transmitting = [(c, bits) for c, bits in zip(self.transmitters, self.bits, strict=True) if c in clients]
        return replace(
            self,
            participants=tuple(client for client in self.participants if client in clients),
            transmitters=tuple(client for client, _ in transmitting),
            bits=tuple(bits for _, bits in transmitting),
        )


@dataclass(frozen=True)
class Received:
    """The server's estimates of the mean signals.

    values: for each signal, shape = the signal's without the clients axis.
    noise_std: standard deviation of the noise in each value of a signal, in the signal's unit.
    """

    values: Tensors
    noise_std: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Traits:
    """Properties of a scheme; the shared tests check them.

    linear: the mean of the signals is the signal of the mean.
    error_feedback: the part of a gradient that was not sent stays in the memory and is sent later.
    noiseless: the scheme is defined on ideal links without noise (P = inf), up and down.
    digital: signals are messages of bits, which arrive exactly.
    phase_shares: the exchanges of a round, and the share of its budget that each gets where all have something to send.
    degree: with which power a block's update grows with its signals, where it has several: 2 for a product of two.
    bits_per_value: bits that a digital link would need for a value sent.
    receiver: the name of the update filter that belongs to the scheme.
    """

    linear: bool = False
    error_feedback: bool = False
    noiseless: bool = False
    digital: bool = False
    phase_shares: tuple[float, ...] = (1.0,)
    degree: int = 1
    bits_per_value: int = 32
    receiver: str = "plain"


class Scheme(ABC):
    """A transmission scheme: a frozen dataclass of hyperparameters with pure functions.

    Its hyperparameters are declared by `option`, and are keys of the run config.

    Example:
        >>> class Plain(Scheme):
        ...     traits = Traits(linear=True)
        ...     def encode(self, corrected, shared, ctx): return corrected, {}
        ...     def decode(self, received, shared, ctx): return received.values, shared
        ...     def shapes(self, block, ctx): return {block.name: block.shape}
        >>> Plain().traits.linear
        True
    """

    def __post_init__(self) -> None:
        """Check the hyperparameters. Raises ConfigError."""
        check_options(self)

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """The scheme's properties."""

    def init(self, blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
        """Draw the state that server and clients share before the first round; by default there is none."""
        return {}

    @abstractmethod
    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Encode corrected gradients as signals, and return the approximations that the signals stand for.

        Blocks that take no part in this phase have no signal. The approximation of a block is returned once a round,
        and is needed only where the scheme has error feedback. With error feedback no signal may share its storage with
        `corrected`.

        Args:
            corrected: per block (transmitters, *shape).
            shared: the state that server and clients share.
            ctx: of the exchange.

        Returns:
            Signals by name, (transmitters, *signal shape), and approximations by block.
        """

    @abstractmethod
    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors | None, Tensors]:
        """Decode the received estimates into an update.

        Args:
            received: estimates of the mean signals of this exchange.
            shared: the state that server and clients share.
            ctx: of the exchange.

        Returns:
            The update per block, *shape, or None before the last phase; and the next shared state.
        """

    def noise_energies(self, received: Received, ctx: RoundContext) -> Tensors:
        """Return the expected energy of the noise in every block of the update; float64 scalars.

        received: in the last phase. By default each received value moves the update by as much as it moves itself: it
        goes where it belongs, or is multiplied with orthonormal vectors.
        """
        stds = [received.noise_std[name] for name in received.values]
        each = noise_energy(stds, [value.numel() for value in received.values.values()])
        energies: Tensors = {}
        for name, energy in zip(received.values, each, strict=True):
            block = name.partition(PART)[0]
            energies[block] = energies[block] + energy if block in energies else energy
        return energies

    def weighs(self, ctx: RoundContext) -> bool:
        """Return True where an update filter is to weigh the update of this exchange; by default everywhere."""
        return True

    @abstractmethod
    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the names of the signals that a client sends for `block` in this exchange, and their shapes."""

    def shared_shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the names and shapes of the shared state of `block` before this exchange; by default none."""
        return {}

    def fits(self, shared: Tensors, ctx: RoundContext) -> bool:
        """Return True where the shared state has the names and shapes that it must have before this exchange."""
        shapes = {name: shape for block in ctx.blocks for name, shape in self.shared_shapes(block, ctx).items()}
        return {name: tuple(tensor.shape) for name, tensor in shared.items()} == shapes

    def values(self, block: Block, ctx: RoundContext) -> int:
        """Count the values that a client sends for `block` in this exchange."""
        return sum(prod(shape) for shape in self.shapes(block, ctx).values())

    def signals(self, block: Block, ctx: RoundContext) -> int:
        """Count the signals that a client sends for `block` in this exchange and that need a norm and an amplitude."""
        return len(self.shapes(block, ctx))

    def num_values(self, ctx: RoundContext) -> int:
        """Count the values that a client sends in this exchange."""
        return sum(self.values(block, ctx) for block in ctx.blocks)

    def payload(self, values: Int64[Tensor, "*clients"], ctx: RoundContext) -> Float64[Tensor, "*clients"]:
        """Return the bits that a digital link needs for so many values."""
        return values.double() * self.traits.bits_per_value

    def transmits(self, bits: float, blocks: tuple[Block, ...]) -> bool:
        """Return True where a client has anything to send on a link that carries `bits`; by default always."""
        return True

    def block_norm(self, norms: Float64[Tensor, "clients parts"]) -> Float64[Tensor, " clients"]:
        """Return a block's norm for the power allocation, in the gradient's unit; by default that of all parts."""
        result: Tensor = torch.linalg.vector_norm(norms, dim=1)
        return result

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: RoundContext
    ) -> Float64[Tensor, " parts"]:
        """Split a block's power over its signals, where it has several; by default equally.

        Args:
            block: the block.
            norms: of its parts, in their order.
            power: the block's budget, linear.
            ctx: of the exchange.

        Returns:
            Shares of sum 1.
        """
        return torch.full_like(norms[0], 1 / norms.shape[1])


def noise_energy(stds: Sequence[Float[Tensor, ""]], sizes: Sequence[int]) -> list[Float64[Tensor, ""]]:
    """Return the energies std² · size of noise in several signals, with few steps for all."""
    if not stds:
        return []
    squares = torch.stack(list(stds)).double().square()
    return list((squares * to_device(torch.tensor(sizes, dtype=torch.float64), squares.device)).unbind())


def encoded(
    scheme: Scheme, corrected: Tensors, shared: Tensors, ctx: RoundContext
) -> tuple[Tensors, dict[str, Approximation]]:
    """Encode as `Scheme.encode`. Raises TrainingError where a scheme returns something else."""
    made = scheme.encode(corrected, shared, ctx)
    _refuse_other_than_two(made, "encode", "(signals, approximations)", scheme, ctx)
    return made


def decoded(scheme: Scheme, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors | None, Tensors]:
    """Decode as `Scheme.decode`. Raises TrainingError where a scheme returns something else."""
    made = scheme.decode(received, shared, ctx)
    _refuse_other_than_two(made, "decode", "(update, shared state)", scheme, ctx)
    update = made[0]
    shapes = {} if update is None else {name: tuple(tensor.shape) for name, tensor in update.items()}
    for block in ctx.blocks:
        if update is not None and shapes.get(block.name) != block.shape:
            rule = f"must return an update of {block.name} of shape {block.shape}"
            got = shapes.get(block.name, "none")
            raise TrainingError(f"round {ctx.round + 1}: decode of {type(scheme).__name__} {rule}, got {got}")
    return made


def _refuse_other_than_two(made: object, method: str, wanted: str, scheme: Scheme, ctx: RoundContext) -> None:
    if not isinstance(made, tuple) or len(made) != 2:
        rule = f"{method} of {type(scheme).__name__} must return {wanted}"
        raise TrainingError(f"round {ctx.round + 1}: {rule}, got {type(made).__name__}")


def owners(signals: Iterable[str]) -> dict[str, int]:
    """Count the signals of each block, by their names and in their order."""
    return dict(Counter(signal.partition(PART)[0] for signal in signals))
