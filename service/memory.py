"""What the C library keeps of memory that was freed: how many pools of it, and giving back what is in them."""

import contextlib
import ctypes
import os
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


def few_pools() -> None:
    """Let all threads share two of glibc's pools, before any thread is started; who set MALLOC_ARENA_MAX knows better.

    By itself glibc makes up to eight for each core. Each keeps what was once freed in it, and a loaded generation, say,
    is freed in whichever it was loaded in: in `benchmarks.soak` that came to 40 MB after six minutes, now to 20. It
    costs no CPU, as small objects are Python's own.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):  # other C libraries than glibc do without
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return what is free to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
