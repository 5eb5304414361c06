"""The client side of laser-fl in Flower: the ClientApp, and `respond` to write another."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.gradients import respond

__all__ = ["respond"]


def __getattr__(name: str) -> Any:
    """Import `respond` where it is first used: PyTorch and Flower take seconds."""
    if name == "respond":
        from clients.gradients import respond

        return respond
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
