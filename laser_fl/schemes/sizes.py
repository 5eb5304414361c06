"""How many values a compression factor leaves of a block."""

import math

from laser_fl.blocks import Block


def sample_size(factor: float, block: Block) -> int:
    """How many of a block's values a factor leaves: max(1, ⌊factor · d⌋). Source: paper, Algorithms 2 and 3."""
    return max(1, floor(factor * block.size))


def floor(value: float) -> int:
    """⌊value⌋ of a product that floating point may have put just below a whole number."""
    return math.floor(value * (1 + 1e-12))
