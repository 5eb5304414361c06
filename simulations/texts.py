"""Texts and tables for people to read: never cut, whatever the width."""

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

LONG = 1e9  # numbers from here on are written with an exponent
GAP = "  "  # between columns


@dataclass(frozen=True)
class Listing:
    """A table of texts. numbers: heads of the columns that are aligned right. caption: explains the heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()
    caption: str = ""

    def lines(self, width: int) -> list[str]:
        """Return the heads and a line per row where `width` has room, else the cells of a row below each other."""
        table = self._table()
        if max(map(cell_len, table)) <= width:
            return table
        records = [
            pairs([(h, cell) for h, cell in zip(self.heads, row, strict=True) if cell], width) for row in self.rows
        ]
        return [line for record in records for line in (*record, "")][:-1]

    def _table(self) -> list[str]:
        columns = zip(self.heads, *self.rows, strict=True)
        padded = [_padded(column, to_the_right=column[0] in self.numbers) for column in columns]
        return [GAP.join(row).rstrip() for row in zip(*padded, strict=True)]


def pairs(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return names and values beside each other, or below each other where `width` has no room for that.

    Values are broken between words only.
    """
    indent = max(cell_len(name) for name, _ in rows) + len(GAP)
    longest = max(cell_len(word) for _, value in rows for word in value.split() or [""])
    if indent + longest > width:
        return [line for name, value in rows for line in (name, *_wrapped(value, width, GAP))]
    names = _padded([name + GAP for name, _ in rows])
    values = [_wrapped(value, width, " " * indent) or [""] for _, value in rows]
    return [
        line.rstrip()
        for name, (first, *more) in zip(names, values, strict=True)
        for line in (name + first[indent:], *more)
    ]


def shown(value: object) -> str:
    """Format a cell: numbers to four digits, whole ones without an exponent, nothing for NaN."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value.is_integer() and abs(value) < LONG else f"{value:.4g}"


def _padded(column: Sequence[str], to_the_right: bool = False) -> list[str]:
    """Return the cells, each as wide as the widest."""
    widest = max(map(cell_len, column))
    spaces = [" " * (widest - cell_len(cell)) for cell in column]
    return [s + cell if to_the_right else cell + s for cell, s in zip(column, spaces, strict=True)]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
