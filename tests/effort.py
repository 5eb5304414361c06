"""How much the tests try: `pytest` by itself what is likely to fail, `.ci/run` all but what is `long`.

Imports nothing of the package, so that conftest may import it before the type-checking hook.
"""

import os
from collections.abc import Iterable

import pytest

THOROUGH = "LASER_FL_THOROUGH" in os.environ  # as .ci/run sets it


def cases(number: int) -> int:
    """Of so many random cases, how many are tried."""
    return number if THOROUGH else max(10, number // 50)


def few(values: Iterable, *chosen: object) -> list:
    """All values, for parametrize; by itself, pytest takes the chosen ones."""
    thorough = (pytest.mark.thorough, pytest.mark.product)
    return [pytest.param(value, marks=() if value in chosen else thorough) for value in values]


def draws(number: int, by_itself: int) -> int:
    """How many draws a mean or a spread is taken over; bounds follow the number."""
    return number if THOROUGH else by_itself


def pairs(ones: Iterable, others: Iterable) -> list:
    """Every one with every other, for parametrize; by itself, pytest takes each one with one of the others in turn."""
    ones, others = list(ones), list(others)
    assert len(ones) >= len(others)
    thorough = (pytest.mark.thorough, pytest.mark.product)
    return [
        pytest.param(one, other, marks=() if place == i % len(others) else thorough)
        for i, one in enumerate(ones)
        for place, other in enumerate(others)
    ]
