"""Readers of the files of runs, sweeps and reproductions; errors name a damaged file, and the damage."""

import io
import json
from collections.abc import Collection, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.errors import DataError, reason_of


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error while `path` is read and checked into a DataError with its name."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pandas and pyarrow raise many kinds
        missing = f"without {error}" if isinstance(error, KeyError) else reason_of(error)
        raise DataError(f"{path}: must be readable ({missing})") from None


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read an object that has `keys`. Raises DataError."""
    with naming(path):
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise TypeError(f"an object is wanted, not a {type(content).__name__}")
        _refuse_missing(keys, content)
        return content


def read_csv(path: Path, numbers: Collection[str] = (), growing: bool = False) -> pd.DataFrame:
    """Read a table.

    Args:
        path: of the file.
        numbers: columns that must be there and have numbers only.
        growing: True where it may be written at the moment, or have been when the run was killed: an incomplete last
            line is left out, instead of refused.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    with naming(path):
        whole, end, rest = path.read_text(encoding="utf-8").rpartition("\n")
        if rest and not growing:
            raise ValueError("it ends within a line")
        table = pd.read_csv(io.StringIO(whole + end))
        refuse_without_numbers(table, numbers)
        return table


def read_parquet(path: Path, *columns: str) -> pd.DataFrame:
    """Read a table that has `columns`. Raises DataError."""
    with naming(path):
        table = pd.read_parquet(path)
        _refuse_missing(columns, table)
        return table


def refuse_without_numbers(table: pd.DataFrame, columns: Collection[str]) -> None:
    """Raise KeyError for a column that is missing, ValueError for one that has something else than numbers."""
    _refuse_missing(columns, table)
    if texts := [name for name in columns if len(table) and table[name].dtype.kind not in "fi"]:
        raise ValueError(f"{texts[0]} must hold numbers")


def _refuse_missing(names: Collection[str], content: Container[object]) -> None:
    if missing := [name for name in names if name not in content]:
        raise KeyError(", ".join(missing))
