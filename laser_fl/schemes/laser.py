"""LASER: low-rank factors of every matrix, with error feedback.

How the two factors of a matrix get to the server is an option of its own, the factor exchange.

Source: paper, Algorithm 1 and §F.2; Vogels, Karimireddy, Jaggi, "PowerSGD", 2019.
"""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes
from laser_fl.schemes.exchanges import EXCHANGES
from laser_fl.schemes.kept import Kept
from laser_fl.streams import Streams
from laser_fl.tables import from_fields


@dataclass(frozen=True)
class Laser(Scheme):
    """Rank-r factors by one of the factor exchanges.

    rank: largest rank of a factor, >= 1; a matrix m x n gets min(rank, m, n).
    factor_exchange: a name in EXCHANGES.
    phase_split: the first phase's share of a round's power, in (0, 1), where a matrix is compressed; of ``two-phase``
        only.
    """

    rank: int
    factor_exchange: str = "alternating"
    phase_split: float = 0.5

    @cached_property
    def exchange(self) -> Scheme:
        """The exchange that does the work."""
        exchange: Scheme = from_fields(EXCHANGES.load(self.factor_exchange), self)
        return exchange

    @property
    def promises(self) -> Promises:
        """Those of the exchange."""
        return self.exchange.promises

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw the first bases."""
        return self.exchange.init(blocks, streams)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send factors."""
        return self.exchange.encode(corrected, shared, ctx)

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Multiply factors; they span the next bases."""
        return self.exchange.decode(heard, shared, ctx)

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """As the exchange has them."""
        return self.exchange.shapes(block, ctx)

    def shared_shapes(self, block: Block, ctx: Context) -> Shapes:
        """As the exchange has them."""
        return self.exchange.shared_shapes(block, ctx)

    def block_norm(self, norms: Float64[Tensor, "clients parts"]) -> Float64[Tensor, " clients"]:
        """As the exchange has it."""
        return self.exchange.block_norm(norms)

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: Context
    ) -> Float64[Tensor, " parts"]:
        """As the exchange has it."""
        return self.exchange.split(block, norms, power, ctx)
