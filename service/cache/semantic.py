"""The verify stage without an error budget: what do guard and verifier say of the near answers?

`Judge` looks at the near entries through guard and verifier, and knows nothing of what is allowed; `verify` picks what
may be served where the budget is 1. With a budget `service.cache.keeper` does, on top of the same `Judge`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Final

from index.verifier import LEAST_COSINE, Candidate, Verifier
from index.view import Entry
from index.wording import Prepared, prepare
from service.errors import SettingsError
from service.requests import CacheMode, CacheOptions, Judged, Prompt, Request
from service.settings import CacheSettings

# Near enough to be worth telling the caller, though not to be served.
_CANDIDATE_MARGIN = 0.1
# Entries whose prompts stay read, about 2 KB each: those that are looked at again and again.
_KEPT: Final = 8_192


class Judge:
    """Guard and verifier over entries.

    Args:
        verifier: the fitted model.
        encoder: digest of the encoder in use; with another than the verifier's own, probabilities cannot be told.
    """

    def __init__(self, verifier: Verifier, encoder: str) -> None:
        self._verifier = verifier
        self.calibrated = verifier.encoder == encoder
        # By row, too, so that no scope is faster for what another has stored; the latest used stand last.
        self._prepared: OrderedDict[tuple[int, str], Prepared] = OrderedDict()

    def judge(
        self, read: Callable[[], Prepared], near: Sequence[tuple[float, Entry]], floor: float = LEAST_COSINE
    ) -> tuple[Judged, ...]:
        """Return what is thought of each near entry, in the order given.

        Args:
            read: returns what is asked, prepared (`reading`); called only if there is anything to compare it with.
            near: (cosine, entry) of the prompt's scope and context, nearest first.
            floor: the least cosine; what is further away is refused as "below_threshold" and not compared.
        """
        if not near or near[0][0] < floor:
            return tuple(Judged(entry, similarity, None, "below_threshold") for similarity, entry in near)
        candidates = [
            Candidate(similarity, self._read(entry), entry.id)
            if similarity >= floor
            else Candidate(similarity, _UNREAD, entry.id)
            for similarity, entry in near
        ]
        judgements = self._verifier.judge(read(), candidates, floor=floor)
        return tuple(
            Judged(
                entry,
                similarity,
                found.probability if self.calibrated and similarity >= floor else None,
                found.refused[0] if found.refused else "",
                found.margin,
                found.agreement,
                found.features,
            )
            for (similarity, entry), found in zip(near, judgements, strict=True)
        )

    def forget(self, entry: Entry) -> None:
        """Forget what an entry's prompt says: it is removed or replaced, and may not linger here either."""
        self._prepared.pop((entry.row, entry.prompt), None)

    def _read(self, entry: Entry) -> Prepared:
        """Read an entry's prompt, or remember what it says."""
        key = entry.row, entry.prompt
        found = self._prepared.get(key)
        if found is not None:
            self._prepared.move_to_end(key)
            return found
        found = self._prepared[key] = prepare(entry.prompt)
        if len(self._prepared) > _KEPT:
            self._prepared.popitem(last=False)
        return found


def load_judge(settings: CacheSettings, encoder: str) -> Judge:
    """Return the judge for the encoder with this digest.

    Raises:
        SettingsError: a probability is asked for that cannot be told of this encoder's cosines.
    """
    judge = Judge(Verifier.load(), encoder)
    unbounded = settings.enabled and settings.error_budget == 1
    if unbounded and settings.min_probability and not judge.calibrated:
        problem = f"cache.min_probability: the verifier is not fitted for the encoder {encoder[:16]}"
        fix = "set it to 0, so that cache.threshold and the guard decide alone, or fit it (docs/operations.md)"
        raise SettingsError([f"settings: {problem}: {fix}"])
    return judge


def reading(prompt: Prompt) -> Callable[[], Prepared]:
    """Return what reads a prompt: once, and when it is first needed."""
    return cache(partial(prepare, prompt.text))


_UNREAD: Final = prepare("")


def budget_of(options: CacheOptions, settings: CacheSettings, category: str = "") -> float:
    """Return the largest share of requests that may get a wrong answer; 0 and 1 are as in the settings.

    Args:
        options: what the caller asks for, which holds whatever the category.
        settings: of the scope.
        category: of the prompt; "" for none, or where it is not known yet.
    """
    if options.error_budget is not None:
        return options.error_budget
    its = settings.categories.get(category)
    return (
        settings.error_budget
        if its is None or its.error_budget is None
        else min(settings.error_budget, its.error_budget)
    )


def refusal(prompt: Prompt, options: CacheOptions, settings: CacheSettings, *, truncated: bool) -> str:
    """Return why no semantic hit may be looked for at all, "" where it may.

    Args:
        prompt: the prompt.
        options: what the caller allows.
        settings: what the operator allows.
        truncated: the prompt was longer than the encoder's window: its vector does not stand for all of it.
    """
    if options.mode is not CacheMode.DEFAULT or not budget_of(options, settings):
        return "not_asked_for"
    if prompt.turns > settings.max_turns:
        return "too_many_turns"
    return "truncated" if truncated else ""


def verify(
    judge: Judge,
    prompt: Prompt,
    near: Sequence[tuple[float, Entry]],
    request: Request,
    settings: CacheSettings,
    now: float,
) -> tuple[Judged | None, tuple[Judged, ...]]:
    """Return the entry to serve, the likeliest of those that may be, and all that were judged.

    Args:
        judge: guard and verifier.
        prompt: the prompt to answer.
        near: (cosine, entry) of the same scope and context, nearest first.
        request: what the caller allows.
        settings: what the operator allows.
        now: seconds since the epoch.
    """
    least = settings.threshold - _CANDIDATE_MARGIN
    alive = [(similarity, entry) for similarity, entry in near if similarity >= least and entry.alive(now)]
    judged = tuple(
        refuse(found, request, settings, now) for found in judge.judge(reading(prompt), alive, settings.threshold)
    )
    served = max((found for found in judged if not found.refused_by), key=likelihood, default=None)
    return served, judged


def likelihood(found: Judged) -> tuple[float, float]:
    """Return what candidates are ranked by: probability, and of equals the cosine."""
    return found.probability or 0.0, found.similarity


def refuse(found: Judged, request: Request, settings: CacheSettings, now: float) -> Judged:
    """Return a judged entry with what refuses to serve it, if anything does: what nothing outweighs first."""
    if request.cache.max_age is not None and now - found.entry.stored_at > request.cache.max_age:
        why = "too_old"
    elif not request.route.admits(found.entry.model):
        why = "model_not_wanted"
    elif found.refused_by:
        return found
    elif budget_of(request.cache, settings) == 1 and (found.probability or 0.0) < settings.min_probability:
        why = "improbable"
    else:
        return found
    return replace(found, refused_by=why)
