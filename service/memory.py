"""Giving memory back to the system: glibc keeps what was freed, and what only loading needed can be most of it."""

import contextlib
import ctypes


def give_back() -> None:
    """Return what is free to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries than glibc do without
        ctypes.CDLL(None).malloc_trim(0)
