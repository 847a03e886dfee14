"""Whether an answer may be stored, for how long, and for whom: everything that is asked before it is.

Pure but for the jitter of lifetimes. Called when an answer is reported or put; what carries personal data is found in
`service.cache.personal`.
"""

import random
import re
from collections.abc import Iterable

from index.records import Answer
from index.text import canonical, digest
from service.settings import CacheSettings

# Nothing that was taken is given back (possessive): else a million spaces would be tried in half a billion ways.
_TEMPERATURE = re.compile(
    r"(?<![a-z])temperature[\\\"']*+(?:\s*+[=:]\s*+|\s++)[\\\"']*+\+?(\d*[.,]?\d+(?:e[+-]?\d+)?)", re.IGNORECASE
)


def temperature(sampling: str) -> float | None:
    """Return the highest temperature in sampling settings, text or JSON at any depth; None: they name none."""
    return max((float(found.replace(",", ".")) for found in _TEMPERATURE.findall(sampling)), default=None)


def blank(text: str) -> bool:
    """Return whether nothing can be seen of a text: white space, marks of no width, control characters."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def too_hot(sampling: str, settings: CacheSettings) -> str:
    """Return why an answer sampled so is not stored, "" where it may be."""
    found = temperature(sampling) if sampling else None
    if found is None or found <= settings.max_temperature:
        return ""
    return f"temperature {found:g} is above cache.max_temperature ({settings.max_temperature:g})"


def expiry(now: float, ttl: float | None, settings: CacheSettings, prompt_category: str) -> float:
    """Return when an answer lapses, in seconds since the epoch; 0: never.

    Args:
        now: seconds since the epoch.
        ttl: what the caller said, in seconds: it is kept to the second. None: the settings' holds, less some jitter.
        settings: of the scope.
        prompt_category: "" for none.
    """
    if ttl is not None:
        return now + ttl
    ttl = settings.ttl_s
    if prompt_category in settings.categories:
        shorter = settings.categories[prompt_category].ttl_s
        ttl = min(ttl, shorter) if ttl and shorter else ttl or shorter
    return now + ttl * (1 - settings.ttl_jitter * random.random()) if ttl else 0.0  # noqa: S311 - no secret


def entry_id(key: bytes, private_to: str) -> str:
    """Return the id of the answer to a key: one for all of the scope, and one for each principal's own."""
    return (digest((key, private_to), 16) if private_to else key[:16]).hex()


def agreeing(answer: Answer, others: Iterable[Answer]) -> list[Answer]:
    """Return those answers to the same prompt that are the same text of the same type, line ends aside.

    Not those that mean the same, nor those in other letter case or spacing, which in code is another meaning: whoever
    wants to slip something into a shared answer would keep the rest of it.
    """
    said = canonical(answer.content)
    return [one for one in others if one.content_type == answer.content_type and canonical(one.content) == said]
