"""A promise is kept, or one line says which one is not: the part, the promise, the numbers, the case."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import torch

from laser_fl.blocks import Tensors
from laser_fl.errors import reason_of

PLAIN = (bool, int, float, str)  # options travel in a message
DIGITS = {torch.float32: 1e-4, torch.float64: 1e-9}  # relative; a result of some hundred products keeps them


class BrokenPromiseError(AssertionError):
    """A part breaks a promise of its interface.

    The message is one line: the part, the promise, the numbers, and the case in which it was broken.

    Example:
        >>> issubclass(BrokenPromiseError, AssertionError)
        True
    """


@dataclass(frozen=True)
class Inspector:
    """The judge of a part in one case.

    case: words for a message, such as "round 0, 4 clients".
    """

    part: object
    case: str = ""

    def require(self, kept: bool, promise: str, numbers: object = "") -> None:
        """Raise unless a promise is kept.

        Args:
            kept: True where it is.
            promise: what must be.
            numbers: what is instead.

        Raises:
            BrokenPromiseError: it is not kept.
        """
        if not kept:
            details = "; ".join(filter(None, (str(numbers), self.case)))
            raise BrokenPromiseError(f"{type(self.part).__name__}: {promise}" + (f" ({details})" if details else ""))

    def require_same(self, promise: str, actual: Mapping[str, torch.Tensor], expected: Tensors) -> None:
        """Raise unless tensors by name are equal bit by bit.

        Args:
            promise: that they are.
            actual: to judge.
            expected: to compare with.

        Raises:
            BrokenPromiseError: names or values differ.
        """
        self._require_names(promise, actual, expected)
        for name, tensor in expected.items():
            self.require(torch.equal(actual[name], tensor), promise, f"'{name}' differs")

    def require_alike(
        self, promise: str, actual: Tensors, expected: Tensors, kind: str = "block", tolerance: float = 0
    ) -> None:
        """Raise unless tensors by name are equal up to rounding: ‖difference‖ <= tolerance · ‖expected‖, for each.

        Args:
            promise: that they are.
            actual: to judge.
            expected: to compare with.
            kind: of the named things.
            tolerance: relative; 0: that of the tensors' precision.

        Raises:
            BrokenPromiseError: names or values differ.
        """
        self._require_names(promise, actual, expected)
        for name, tensor in expected.items():
            norm, difference = tensor.double().norm(), (actual[name].double() - tensor.double()).norm()
            kept = bool(difference <= (tolerance or DIGITS[tensor.dtype]) * norm)
            off = f"off by {float(difference / norm):.2g} of its norm" if norm > 0 else f"{difference:.2g}, not 0"
            self.require(kept, promise, f"{kind} '{name}', {off}")

    @contextmanager
    def no_errors(self) -> Iterator[None]:
        """Turn any other error of the part into a broken promise."""
        try:
            yield
        except BrokenPromiseError:
            raise
        except Exception as error:
            line = f"{type(self.part).__name__}: it must work on valid inputs"
            details = "; ".join(filter(None, (f"{type(error).__name__}: {reason_of(error)}", self.case)))
            raise BrokenPromiseError(f"{line} ({details})") from error

    def _require_names(self, promise: str, actual: Collection[str], expected: Collection[str]) -> None:
        self.require(set(actual) == set(expected), promise, f"{sorted(actual)} beside {sorted(expected)}")


def check_dataclass(part: object, base: type) -> None:
    """Check that a part is a frozen dataclass of plain options.

    Args:
        part: to check.
        base: its interface.

    Raises:
        BrokenPromiseError: it is not.
    """
    own = Inspector(part)
    own.require(isinstance(part, base), f"it must be an instance of a subclass of {base.__name__}")
    known: Any = part
    frozen = is_dataclass(known) and getattr(type(known), "__dataclass_params__").frozen  # noqa: B009
    own.require(frozen, "it must be a frozen dataclass")
    own.require(type(known).__hash__ is not None, "it must be hashable")
    plain = {name: type(value).__name__ for name, value in asdict(known).items() if not isinstance(value, PLAIN)}
    own.require(not plain, "its options must be int, float or str, as they travel in a message", plain)
    again = replace(known)
    own.require(
        again == part and hash(again) == hash(part), "it must be equal to another of the same options, with equal hash"
    )
