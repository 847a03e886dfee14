"""The verify stage: may one of the near answers be served for this prompt?

First cut: one cosine threshold, and a guard for what embeddings do not see: differing numbers. A calibrated
probability and an audited error budget belong here, behind the same function.
"""

from collections.abc import Iterable

from index.text import numbers
from index.view import Entry
from service.requests import CacheOptions, Candidate, Prompt, Request
from service.settings import CacheSettings

# Near enough to be worth telling the caller, though not to be served.
_CANDIDATE_MARGIN = 0.1


def refusal(prompt: Prompt, options: CacheOptions, settings: CacheSettings, *, truncated: bool) -> str:
    """Return why no semantic hit may be looked for at all, "" where it may.

    Args:
        prompt: the prompt.
        options: what the caller allows.
        settings: what the operator allows.
        truncated: the prompt was longer than the encoder's window: its vector does not stand for all of it.
    """
    if not options.semantic:
        return "not_asked_for"
    if prompt.turns > settings.max_turns:
        return "too_many_turns"
    return "truncated" if truncated else ""


def verify(
    prompt: Prompt,
    near: Iterable[tuple[float, Entry]],
    request: Request,
    settings: CacheSettings,
    now: float,
) -> tuple[tuple[Entry, float] | None, Candidate | None]:
    """Return the entry to serve with its cosine, or else the best candidate with the check that refused it.

    Args:
        prompt: the prompt to answer.
        near: (cosine, entry) of the same scope and context, nearest first.
        request: what the caller allows.
        settings: what the operator allows.
        now: seconds since the epoch.
    """
    candidate: Candidate | None = None
    own_numbers: tuple[str, ...] | None = None
    for similarity, entry in near:
        if similarity < settings.threshold - _CANDIDATE_MARGIN:
            break
        if not entry.alive(now):
            continue
        if own_numbers is None:
            own_numbers = numbers(prompt.text)
        refused = _refused(entry, similarity, own_numbers, request, settings, now)
        if not refused:
            return (entry, similarity), None
        if candidate is None:
            candidate = Candidate(entry, similarity, refused)
    return None, candidate


def _refused(
    entry: Entry, similarity: float, own_numbers: tuple[str, ...], request: Request, settings: CacheSettings, now: float
) -> str:
    """Return the check that refuses an entry, "" where it may be served."""
    if similarity < settings.threshold:
        return "below_threshold"
    if request.cache.max_age is not None and now - entry.stored_at > request.cache.max_age:
        return "too_old"
    if not request.route.admits(entry.model):
        return "model_not_wanted"
    return "numbers_differ" if entry.numbers != own_numbers else ""
