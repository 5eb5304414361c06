"""The error-feedback memories of a group's clients, in this process, and in a file where they are too many for it.

A client has a memory once it has taken part: a row of a page. Newcomers fill a page, then the next one; many at once
are a page as they were computed. So a run in which all clients take part in all rounds has one page, which changes in
place, and a run of sampled cohorts has few, and grows by each cohort's newcomers, whatever the number of clients is.
"""

import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, put, take
from laser_fl.errors import StorageError, reason_of

PAGE = 2**26  # bytes of a page; the system gives memory when it is first written
KEPT = 2**29  # bytes of memories of which a CPU's process keeps all; twice a cohort's, where that is more


class Memories(Mapping[str, Tensor]):
    """The memories of a group's clients, which change in place: by block, (clients, *shape).

    As a mapping it has a row for every client of the group; clients that never took part have zeros.
    """

    def __init__(self, clients: range) -> None:
        """Start with none. clients: of the group."""
        self.clients = clients
        self._pages: list[_Page] = []
        self._file: _File | None = None
        self._places: dict[int, tuple[int, int]] = {}  # (page, row); page -1: in the file
        self._bytes = 0

    @classmethod
    def of(cls, memory: Mapping[str, Tensor], clients: range, owners: Sequence[int] | None = None) -> "Memories":
        """Return the memories of tensors by block, which they take over; memories stay as they are.

        Args:
            memory: (owners, *shape), or memories.
            clients: of the group.
            owners: the clients with a row in `memory`; None: all.
        """
        if isinstance(memory, Memories):
            return memory
        memories = cls(clients)
        memories.put(tuple(clients) if owners is None else tuple(owners), dict(memory))
        return memories

    @property
    def owners(self) -> tuple[int, ...]:
        """The clients that have a memory, rising."""
        return tuple(sorted(self._places))

    def take(self, clients: tuple[int, ...], copied: bool = False) -> Tensors:
        """Return the rows of some clients; {} where none of them has a memory.

        Args:
            clients: their numbers, in the order of rows.
            copied: False: the rows may be those of the group itself.
        """
        if not any(client in self._places for client in clients):
            return {}
        if not copied and (page := self._page_of(clients)) is not None:
            return page.tensors
        parts = [(here, self._rows(number, there)) for number, (here, there) in self._by_page(clients).items()]
        if len(parts) == 1 and len(parts[0][0]) == len(clients):
            return parts[0][1]
        like = self._pages[0].tensors
        whole = {name: tensor.new_zeros(len(clients), *tensor.shape[1:]) for name, tensor in like.items()}
        for here, rows in parts:
            put(whole, here, rows)
        return whole

    def put(self, clients: tuple[int, ...], rows: Tensors) -> None:
        """Keep the next memories of some clients.

        Args:
            clients: their numbers, in the order of rows.
            rows: by block, (clients, *shape); without any, nothing is kept.

        Raises:
            StorageError: the file cannot be written.
        """
        if not rows or not clients:
            return
        if (page := self._page_of(clients)) is not None:
            page.tensors = rows
            return
        for number, (here, there) in self._by_page(clients).items():
            if number >= 0:
                put(self._pages[number].tensors, there, take(rows, here))
            elif self._file is not None:
                self._file.write(there, take(rows, here))
        new = [row for row, client in enumerate(clients) if client not in self._places]
        if new:
            self._add(tuple(clients[row] for row in new), rows if len(new) == len(clients) else take(rows, new), rows)

    def _add(self, clients: tuple[int, ...], rows: Tensors, cohort: Tensors) -> None:
        """Keep the first memories of clients, as a page, or in the file where memory is full."""
        size, most = _bytes(rows), max(KEPT, 2 * _bytes(cohort))
        like = next(iter(rows.values()))
        if self._pages and like.device.type == "cpu" and self._bytes + size > most:
            self._file = self._file or _File()
            places = range(self._file.count, self._file.count + len(clients))
            self._file.write(places, rows)
            self._places |= {client: (-1, row) for client, row in zip(clients, places, strict=True)}
            return
        self._bytes += size
        done = self._fill(clients, rows)
        if done < len(clients):
            left = {name: tensor[done:] for name, tensor in rows.items()} if done else rows
            self._pages.append(self._page_for(len(clients) - done, left))
            self._fill(clients[done:], left)

    def _fill(self, clients: tuple[int, ...], rows: Tensors) -> int:
        """Put first memories into the last page as far as it has room; return their number."""
        page = self._pages[-1] if self._pages else None
        count = min(page.room, len(clients)) if page else 0
        if page and count:
            first = len(page.clients)
            self._places |= {client: (len(self._pages) - 1, first + row) for row, client in enumerate(clients[:count])}
            page.clients.extend(clients[:count])
            for name, tensor in page.tensors.items():
                if tensor is not rows[name]:
                    tensor[first : first + count] = rows[name][:count]
        return count

    def _page_for(self, count: int, rows: Tensors) -> "_Page":
        """Return a page for `count` rows and others to come; it is the rows themselves where they need a whole one."""
        fit = PAGE * count // _bytes(rows)
        most = min(fit, len(self.clients) - len(self._places))
        if most <= count:
            return _Page([], rows)
        return _Page([], {name: _empty(most, tensor) for name, tensor in rows.items()})

    def _page_of(self, clients: tuple[int, ...]) -> "_Page | None":
        """Return the page that has exactly these clients, in their order."""
        number, _ = self._places.get(clients[0], (-1, 0)) if clients else (-1, 0)
        page = self._pages[number] if number >= 0 else None
        return page if page and page.size == len(clients) and page.clients == list(clients) else None

    def _by_page(self, clients: tuple[int, ...]) -> dict[int, tuple[list[int], list[int]]]:
        """Return (places among `clients`, rows in the page) by page, of those that have a memory."""
        found: dict[int, tuple[list[int], list[int]]] = {}
        for place, client in enumerate(clients):
            if client in self._places:
                page, row = self._places[client]
                here, there = found.setdefault(page, ([], []))
                here.append(place)
                there.append(row)
        return found

    def _rows(self, number: int, rows: list[int]) -> Tensors:
        """Copy rows of a page, or of the file."""
        if number >= 0:
            return take(self._pages[number].tensors, rows)
        assert self._file is not None
        return self._file.read(rows, self._pages[0].tensors)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self.take(tuple(self.clients))[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def _names(self) -> Tensors:
        """The blocks by name; none as long as nobody has a memory."""
        return self._pages[0].tensors if self._pages else {}


class _Page:
    """Rows of memories, by block (size, *shape), of which the first are those of `clients`."""

    def __init__(self, clients: list[int], tensors: Tensors) -> None:
        self.clients, self.tensors = clients, tensors
        self.size = len(next(iter(tensors.values())))

    @property
    def room(self) -> int:
        """The number of rows that nobody has."""
        return self.size - len(self.clients)


class _File:
    """Rows of equal length in a temporary file, which the process's end removes."""

    def __init__(self) -> None:
        self.count = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="laser-fl-memories-")  # noqa: SIM115  it lives as long as the run
        except OSError as error:
            raise _cannot(error) from None

    def write(self, places: Sequence[int], rows: Tensors) -> None:
        """Write rows at their places. Raises StorageError."""
        flat = torch.cat([as_rows(tensor) for tensor in rows.values()], dim=1).view(torch.uint8).numpy()
        try:
            for place, row in zip(places, flat, strict=True):
                self._file.seek(place * len(row))
                self._file.write(row.data)
            self._file.flush()
        except OSError as error:
            raise _cannot(error) from None
        self.count = max(self.count, max(places) + 1)

    def read(self, places: Sequence[int], like: Tensors) -> Tensors:
        """Read rows of the blocks' shapes. Raises StorageError."""
        sizes = [tensor[0].numel() for tensor in like.values()]
        values = next(iter(like.values()))
        flat = np.empty((len(places), sum(sizes) * values.element_size()), dtype=np.uint8)
        try:
            for place, row in zip(places, flat, strict=True):
                self._file.seek(place * len(row))
                self._file.readinto(row.data)
        except OSError as error:
            raise _cannot(error) from None
        parts = torch.split(torch.from_numpy(flat).view(values.dtype), sizes, dim=1)
        return {name: part.view(len(places), *t.shape[1:]) for (name, t), part in zip(like.items(), parts, strict=True)}


def _empty(count: int, like: Tensor) -> Tensor:
    """Return `count` rows, without values; on a CPU memory comes in huge pages, where the system has them (Linux)."""
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(count, *like.shape[1:])
    room = mmap.mmap(-1, max(1, count * like[0].nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=like.dtype, count=count * like[0].numel()).view(count, *like.shape[1:])


def _cannot(error: OSError) -> StorageError:
    reason = f"memories of clients cannot be kept there ({reason_of(error)}); TMPDIR names another folder"
    return StorageError(f"{tempfile.gettempdir()}: {reason}")


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
