"""Canonical text, fingerprints and keys: what makes two requests the same.

Pure functions. A key must never collide by concatenation, so every part is hashed with its length in front. Used
by the cache (exact key, context) and by the builder (content hash).
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from index.records import Message

_MARKS = re.compile(r"[.,?!'\"\u2018\u2019\u201c\u201d\u2026]")


@dataclass(frozen=True, slots=True)
class Context:
    """All that must match exactly for a cached answer to be valid, besides the prompt."""

    system_prompt: str = ""
    tools: str = ""
    response_format: str = ""
    sampling: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


def canonical(text: str) -> str:
    """Return the text with differences removed that no reader and no model could mean.

    Unicode composed (NFC), line ends as line feeds, no white space at the end of a line nor around the whole.
    Case, inner spacing and punctuation stay: in code and in names they matter. Idempotent.
    """
    if text.isascii() and "\n" not in text and "\r" not in text:
        return text.strip()
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(map(str.rstrip, text.split("\n"))).strip()


def plain(text: str) -> str:
    """Return the text without what marks sentences and quotes, without case, and with single spaces.

    Of texts that differ in nothing else hardly any mean something else. Signs that carry a meaning of their own stay.
    """
    return " ".join(_MARKS.sub(" ", text.casefold()).split())


def digest(parts: Iterable[str | bytes], size: int = 32) -> bytes:
    """Return a BLAKE2b digest of `size` bytes over parts, each with its length in front."""
    raw = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]
    lengths = (len(part).to_bytes(8, "little") for part in raw)
    return hashlib.blake2b(b"".join(chain.from_iterable(zip(lengths, raw, strict=True))), digest_size=size).digest()


def context_fingerprint(context: Context, history: Sequence[Message] = ()) -> bytes:
    """Return 16 bytes that are equal only for equal contexts and equal earlier turns.

    Args:
        context: what the caller said an answer depends on.
        history: the turns before the last one, oldest first; their text counts as it stands.
    """
    parts = [context.system_prompt, context.tools, context.response_format, context.sampling]
    parts.append(str(len(context.extra)))
    for name in sorted(context.extra):
        parts += (name, context.extra[name])
    for turn in history:
        parts += (turn.role, turn.content)
    return digest(parts, 16)


EMPTY_CONTEXT = context_fingerprint(Context())


def answer_key(scope: str, context: bytes, text: str) -> bytes:
    """Return the 32 bytes that an exact hit matches, over scope, context fingerprint and canonical text."""
    return digest((scope, context, text))


def content_digest(content: str) -> bytes:
    """Return 16 bytes that two answers share whose texts differ by nothing but white space around them."""
    return digest((content.strip(),), 16)


def content_hash(encoder_digest: str, text: str) -> bytes:
    """Return 16 bytes that say whether a text was already embedded, by this very encoder."""
    return digest((encoder_digest, text), 16)
