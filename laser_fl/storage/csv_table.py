"""A table that grows with a run: the cost of a row does not depend on the number of rows."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from laser_fl.errors import StorageError, brief, reason_of
from laser_fl.storage.checkpoint import CheckpointError
from laser_fl.storage.files import whole_lines, write_whole

T = TypeVar("T")


class CsvTable:
    """A CSV file to which rows are appended; a process killed meanwhile leaves at most one incomplete last line.

    rows: number of rows written.
    """

    def __init__(self, path: Path) -> None:
        """Start with no rows. path: made with the first row, whose keys become the columns."""
        self.rows = 0
        self._path = path
        self._size = 0  # bytes of the file with so many rows
        self._columns: tuple[str, ...] = ()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows at the end. Raises StorageError, and then the table has as many rows as before."""
        rows = list(rows)
        if not rows:
            return
        if self.rows == 0:
            self._columns = tuple(rows[0])
            content = self._text(rows, header=True)
            write_whole(self._path, content)
        else:
            content = self._text(rows)
            self._add(content)
        self.rows, self._size = self.rows + len(rows), self._size + len(content)

    def start_over(self) -> None:
        """Let the next rows replace all present ones, in one step."""
        self.rows = self._size = 0

    def read(self, rows: int, parse: Callable[[dict[str, str]], T]) -> list[T]:
        """Parse the first rows of the file. Raises CheckpointError where there are fewer, or one cannot be parsed."""
        if rows == 0:
            return []
        try:
            lines = io.StringIO(whole_lines(self._path), newline="")
            read = [parse(row) for row in islice(csv.DictReader(lines), rows)]
        except OSError as error:
            raise CheckpointError(f"{self._path}: cannot be read ({reason_of(error)})") from None
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise CheckpointError(f"{self._path}: is not what was written ({brief(str(error))})") from None
        if len(read) < rows:
            raise CheckpointError(f"{self._path}: must have at least the checkpoint's {rows} rows, got {len(read)}")
        return read

    def _text(self, rows: list[Mapping[str, Any]], header: bool = False) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _add(self, content: bytes) -> None:
        """Write after the existing rows, over any remainder of an interrupted call."""
        try:
            with self._path.open("r+b") as file:
                file.seek(self._size)
                file.truncate()
                file.write(content)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, self._size)
            raise StorageError(f"{self._path}: cannot be written ({reason_of(error)})") from None
