"""Z-SGD: every client sends its gradient as it is. SGD: the same without noise.

Source: paper, §2, (Z-SGD) and (SGD).
"""

from dataclasses import dataclass
from typing import ClassVar

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard
from laser_fl.streams import Streams


@dataclass(frozen=True)
class ZSgd:
    """Signal = gradient; update = what was heard."""

    linear: ClassVar[bool] = True
    error_feedback: ClassVar[bool] = False
    phases: ClassVar[int] = 1
    noiseless: ClassVar[bool] = False

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Nothing is shared."""
        return {}

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Send everything, keep everything."""
        return corrected, corrected

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Take what was heard as the update."""
        return heard.values, shared


@dataclass(frozen=True)
class Sgd(ZSgd):
    """Z-SGD at infinite power: the noiseless baseline."""

    noiseless: ClassVar[bool] = True
