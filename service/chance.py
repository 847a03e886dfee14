"""Ids and coins that nobody can foresee, from the system's randomness.

Drawn by the hundred: each draw lets go of the interpreter's lock, and getting it back from an encoder's thread takes up
to a millisecond, longer than all else about a decision that is not its encoding.
"""

import secrets
from typing import Final

_ID_BYTES: Final = 12
_COIN_BYTES: Final = 7
_COIN_BITS: Final = 53  # of a float's mantissa
_AT_ONCE: Final = 100
_ids: Final[list[str]] = []
_coins: Final[list[float]] = []


def new_id() -> str:
    """Return an id nobody can guess: 96 bits in hex."""
    if not _ids:
        drawn = secrets.token_hex(_ID_BYTES * _AT_ONCE)
        _ids.extend(drawn[i : i + 2 * _ID_BYTES] for i in range(0, len(drawn), 2 * _ID_BYTES))
    return _ids.pop()


def coin() -> float:
    """Return a number in [0, 1), each of 2 ** 53 as likely as the others."""
    if not _coins:
        drawn = secrets.token_bytes(_COIN_BYTES * _AT_ONCE)
        numbers = (int.from_bytes(drawn[i : i + _COIN_BYTES]) for i in range(0, len(drawn), _COIN_BYTES))
        _coins.extend((number >> (8 * _COIN_BYTES - _COIN_BITS)) / (1 << _COIN_BITS) for number in numbers)
    return _coins.pop()
