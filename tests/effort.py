"""The effort of the tests: `pytest` by itself tries the likely failures, `.ci/run` all but the tests marked `long`.

Imports nothing of the package, so that conftest may import it before the type-checking hook.
"""

import os
from collections.abc import Iterable

import pytest

THOROUGH = "LASER_FL_THOROUGH" in os.environ  # set by .ci/run


def cases(number: int) -> int:
    """Return how many of `number` random cases are tried."""
    return number if THOROUGH else max(10, number // 50)


def few(values: Iterable, *chosen: object) -> list:
    """Return all values, for parametrize; by itself, pytest takes the chosen ones."""
    thorough = (pytest.mark.thorough, pytest.mark.product)
    return [pytest.param(value, marks=() if value in chosen else thorough) for value in values]


def draws(number: int, by_itself: int) -> int:
    """Return the number of draws of a mean or a spread; bounds follow the number."""
    return number if THOROUGH else by_itself


def pairs(ones: Iterable, others: Iterable) -> list:
    """Pair every one with every other, for parametrize; by itself, pytest takes each with one of the others in turn."""
    ones, others = list(ones), list(others)
    assert len(ones) >= len(others)
    thorough = (pytest.mark.thorough, pytest.mark.product)
    return [
        pytest.param(one, other, marks=() if place == i % len(others) else thorough)
        for i, one in enumerate(ones)
        for place, other in enumerate(others)
    ]
