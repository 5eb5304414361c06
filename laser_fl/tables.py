"""Tables of named parts, loaded on first use so that listing them costs nothing.

A new scheme, channel, policy, allocation or task is one new file and one line in its table.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table.

    target: ``module:object``, imported when first asked for.
    summary: what it is, one line, for ``laser-fl list``.
    options: names it accepts in turn (a task's models).
    """

    target: str
    summary: str
    options: tuple[str, ...] = ()


class Table(Mapping[str, Entry]):
    """Named entries in reading order; `load` imports the object behind a name."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """Import and return the object behind `name`. Raises KeyError for an unknown name."""
        return resolve_name(self[name].target)


def from_fields(cls: type[T], source: object) -> T:
    """Build the dataclass `cls` from the attributes of `source` that carry its fields' names.

    This is how a scheme or channel takes what it needs from a run config.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(source, name) for name in names})
