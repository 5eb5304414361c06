"""A chart of characters for terminals: curves of dots, eight to a character, or of marks in ASCII."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column
BRAILLE = 0x2800
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=*#"


@dataclass(frozen=True)
class Series:
    """A curve. xs rise. style: of rich. mark: stands for it where dots cannot be shown."""

    xs: Sequence[float]
    ys: Sequence[float]
    style: str
    mark: str = "*"


def chart(
    curves: Sequence[Series], right: float, width: int, height: int, label: Callable[[float], str], plain: bool
) -> list[Text]:
    """Draw curves over each other, with the least and the largest value beside them.

    Args:
        curves: each with a point or more; later ones lie on top.
        right: the largest x, at the right margin; the left one is 0.
        width: of a line, in characters.
        height: number of lines.
        label: formats a value.
        plain: True for ASCII.
    """
    values = [y for curve in curves for y in curve.ys]
    low, high = min(values), max(values)
    labels = [label(high), *[""] * (height - 2), label(low)]
    margin = max(map(len, labels))
    wide = max(1, width - margin - 2)
    cells = [[(0, "")] * wide for _ in range(height)]
    columns, rows = (1, 1) if plain else (2, 4)
    for curve in curves:
        for x, y in _points(curve, wide * columns / right, wide * columns, _levels(low, high, height * rows)):
            bits = ord(curve.mark) if plain else cells[y // rows][x // columns][0] | DOTS[y % rows][x % columns]
            cells[y // rows][x // columns] = bits, curve.style
    axis = "|" if plain else "│"
    return [
        Text.assemble((f"{name:>{margin}} {axis}", "dim"), *((_character(bits, plain), style) for bits, style in line))
        for name, line in zip(labels, cells, strict=True)
    ]


def sparkline(values: Sequence[float], width: int, plain: bool) -> str:
    """Return bars for the last values, a character each, from their least to their largest."""
    bars = PLAIN_BARS if plain else BARS
    shown = values[-width:]
    low, high = min(shown), max(shown)
    return "".join(bars[int((y - low) / (high - low or 1) * (len(bars) - 1))] for y in shown)


def _levels(low: float, high: float, rows: int) -> Callable[[float], int]:
    """Return the function that gives a value's row, counted from the top."""
    return lambda y: min(rows - 1, int((high - y) / (high - low) * rows)) if high > low else rows // 2


def _points(curve: Series, scale: float, columns: int, row_of: Callable[[float], int]) -> Iterator[tuple[int, int]]:
    """Yield the (column, row) of every dot of a curve, without gaps."""
    places = [min(columns - 1, int(x * scale)) for x in curve.xs]
    before = row_of(curve.ys[0])
    after, heights = [*places[1:], places[-1]], [*curve.ys[1:], curve.ys[-1]]
    for start, end, first, last in zip(places, after, curve.ys, heights, strict=True):
        for x in range(start, end + 1):
            row = row_of(last if end == start else first + (last - first) * (x - start) / (end - start))
            step = 1 if row > before else -1
            yield from ((x, between) for between in range(before + step, row, step))
            yield x, row
            before = row


def _character(bits: int, plain: bool) -> str:
    if bits == 0:
        return " "
    return chr(bits) if plain else chr(BRAILLE + bits)
