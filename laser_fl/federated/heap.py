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


def give_back(most: int | None = None) -> None:
    """Give free memory back to the system where there is more than `most` bytes of it.

    None: as much as is in use may stay, and `FREE` bytes in any case. To look at it takes a millisecond.
    """
    if (library := _library()) is None:
        return
    heap = library.mallinfo2()
    if heap.fordblks > (max(FREE, heap.uordblks + heap.hblkhd) if most is None else most):
        library.malloc_trim(0)


@cache
def _library() -> Any:
    """Return the C library; None where it does not tell its free memory (it does on Linux, with glibc)."""
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _Info
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library
