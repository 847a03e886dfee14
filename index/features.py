"""What a text shows on its surface: features that need no model.

Pure functions of a text, the same on every machine and in every run. Embeddings blur exactly these: length, numbers,
symbols, scripts. Called by `index.fitting` for the references and by `index.estimator` for every prompt, so they are
quick: about 25 microseconds for 500 characters. Only the beginning of a long text is read.

The length leaves out the little words of English (`index.lexicon`): they tell how something is asked, not how much.
With them it was length that moved the estimate most where a question was only put in other words.

Hashed words and pairs of words were tried as well, as were a ridge over tf-idf, squares of these features and random
Fourier features of them: beside a sentence embedding none was better on both MMLU and GSM8K of RouteLLM.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.lexicon import STOP

Floats = NDArray[np.float32]

# The encoder's window ends near 1,000 characters; what comes later speaks through the length alone.
_READ: Final = 2_000

_MARKS: Final = tuple(b"what which how why who when where not except if true best explain".split())
_LITTLE: Final = frozenset(word.encode() for word in STOP)
# Signs that end a word, and apostrophes: "what's" is read as "what s".
_APART: Final = bytes(ord(" ") if byte in b"\n.,;:?!\"'()" else byte for byte in range(256))

# Bytes by kind. Beyond ASCII a lead byte of UTF-8 tells the script; continuation bytes are kind 0 and not counted.
_KINDS: Final = (
    b" ",
    b"0123456789",
    bytes(range(ord("A"), ord("Z") + 1)),
    b"\n",
    b"?",
    b"!",
    b".",
    b",",
    b":;",
    b"'\"",
    b"()",
    b"=+*/^<>|~",
    b"{}[]\\`_#&@",
    b"-",
    b"$%",
    bytes(range(0xC2, 0xCC)),  # accented Latin
    bytes(range(0xCC, 0xE0)),  # Greek, Cyrillic, Hebrew, Arabic
    bytes(range(0xE0, 0xE3)),  # Indic, Thai, typographic signs
    bytes(range(0xE3, 0xF0)),  # Chinese, Japanese, Korean
    bytes(range(0xF0, 0xF8)),  # emoji
)
_KIND_OF: Final = bytes(
    next((kind for kind, members in enumerate(_KINDS, start=1) if byte in members), 0) for byte in range(256)
)

_COUNTS: Final = len(_KINDS) + 2
SURFACE: Final = _COUNTS + len(_MARKS)
"""How many surface features there are."""
LENGTH: Final = len(_KINDS)
"""Which of them is the length, without little words."""


def surface(texts: Sequence[str]) -> Floats:
    """Return the surface features of texts, shape (len(texts), SURFACE).

    Logarithms of counts, so that a linear model sees rates as well as sizes, and whether some telling words are there.
    """
    found = np.zeros((len(texts), SURFACE), np.float32)
    for row, text in zip(found, texts, strict=True):
        read = text[:_READ]
        raw = read.encode("utf-8", "replace")
        kinds = np.frombuffer(raw.translate(_KIND_OF), np.uint8)
        row[: len(_KINDS)] = np.bincount(kinds, minlength=len(_KINDS) + 1)[1:]
        words = raw.lower().translate(_APART).split()
        little = len(b" ".join([*filter(_LITTLE.__contains__, words), b""]))  # with the space behind each
        row[LENGTH:_COUNTS] = len(text) * max(1 - little / max(len(read), 1), 0), text.count("```")
        different = set(words)
        row[_COUNTS:] = [mark in different for mark in _MARKS]
    np.log1p(found[:, :_COUNTS], out=found[:, :_COUNTS])
    return found
