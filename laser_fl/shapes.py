"""Shapes in annotations, ``Float[Tensor, "clients rows"]``, as the package jaxtyping defines them.

A device that only hosts clients does without that package: there an annotation is the tensor type alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Complex128, Float, Float64, Int32, Int64, Shaped, UInt8
else:
    try:
        from jaxtyping import Bool, Complex, Complex128, Float, Float64, Int32, Int64, Shaped, UInt8
    except ImportError:

        class Shaped:
            """The annotation of an array of any type of values, without its shape."""

            def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
                """Return the array type."""
                return array_and_shape[0]

        Bool = Complex = Complex128 = Float = Float64 = Int32 = Int64 = UInt8 = Shaped

__all__ = ["Bool", "Complex", "Complex128", "Float", "Float64", "Int32", "Int64", "Shaped", "UInt8"]
