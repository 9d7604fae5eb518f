"""Memory that the allocator holds back after a load."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Gives freed heap memory back to the system. Without it a load that converts dtypes keeps half as much again.

    glibc alone holds so much back, and alone can be asked; elsewhere this does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
