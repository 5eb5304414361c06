"""How values are written where people read them."""

import math

LONG = 1e9  # from here on a number is written with an exponent


def shown(value: object) -> str:
    """A cell: numbers to four digits, whole ones without an exponent, nothing for NaN."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value.is_integer() and abs(value) < LONG else f"{value:.4g}"
