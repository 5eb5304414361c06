"""The receiver that takes what was heard as it is, as in the paper."""

from laser_fl.blocks import Tensors


def plain(
    update: Tensors, noise: Tensors, known: Tensors, weighs: bool = True, due: float = 0.0
) -> tuple[Tensors, Tensors]:
    """The update itself; nothing to remember."""
    return update, {}
