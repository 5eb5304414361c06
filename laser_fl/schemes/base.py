"""What every scheme is: pure functions over explicit state."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.streams import Streams


@dataclass(frozen=True)
class Context:
    """What both sides of the air know of an exchange.

    blocks: the model's blocks, in order.
    round: counted from 0. phase: counted from 0, below the scheme's `phases`.
    power: the power budget of this exchange, linear; inf on a noiseless channel.
    noise_std: standard deviation of the channel noise per value.
    clients: number of clients k.
    streams: the run's randomness.
    """

    blocks: tuple[Block, ...]
    round: int
    phase: int
    power: float
    noise_std: float
    clients: int
    streams: Streams


@dataclass(frozen=True)
class Heard:
    """The server's estimates of the mean signals.

    values: for each signal, shape = the signal's without the clients axis.
    noise_std: standard deviation of the noise in each value of a signal, in the signal's unit.
    """

    values: Tensors
    noise_std: dict[str, Float[Tensor, ""]]


@runtime_checkable
class Scheme(Protocol):
    """A transmission scheme: a frozen dataclass of hyperparameters with three pure functions.

    linear: the mean of the signals is the signal of the mean.
    error_feedback: what was not sent is remembered and sent later.
    phases: exchanges per round.
    noiseless: the scheme is defined on the channel without noise (P = inf).
    """

    linear: ClassVar[bool]
    error_feedback: ClassVar[bool]
    phases: ClassVar[int]
    noiseless: ClassVar[bool]

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """The state that server and clients share before the first round."""
        ...

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Turn corrected gradients into signals, and say which part of them the signals stand for.

        corrected: per block, (clients, *shape). Returns (signals, kept): signals per block,
        (clients, *signal shape); kept per block, (clients, *shape). Blocks that take no part in
        this phase are absent from both.
        """
        ...

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Turn what was heard into (update per block, next shared state); no update before the last phase."""
        ...
