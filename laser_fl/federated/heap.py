"""The free memory that this process has not given back to the system.

Where large tensors come and go between small ones that stay, the C library's allocator may find no free room that is
large enough, and take more and more from the system, though little is in use.
"""

import ctypes
from functools import cache
from typing import Any

FREE = 2**27  # bytes that may stay: to get memory back from the system takes as long as to write to it


class _Info(ctypes.Structure):
    """The C library's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def free_bytes() -> int:
    """Return the bytes that are free in this process; 0 where the C library does not tell (it does on Linux, glibc)."""
    library = _library()
    return int(library.mallinfo2().fordblks) if library else 0


def give_back(most: int = FREE) -> None:
    """Give free memory back to the system where it is more than `most` bytes."""
    if free_bytes() > most:
        _library().malloc_trim(0)


@cache
def _library() -> Any:
    """Return the C library; None where it lacks what is needed here."""
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _Info
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library
