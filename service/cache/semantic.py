"""The verify stage without an error budget: what do guard and verifier say of the near answers?

`Judge` looks at the near entries through guard and verifier, and knows nothing of what is allowed; `verify` picks what
may be served where the budget is 1. With a budget `service.cache.keeper` does, on top of the same `Judge`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from cachetools import LRUCache

from index.verifier import LEAST_COSINE, Verifier
from index.view import Entry
from index.wording import Prepared, prepare
from service.cache.learner import vote
from service.errors import SettingsError
from service.requests import CacheMode, CacheOptions, Judged, Prompt, Request
from service.settings import CacheSettings

Answer = TypeVar("Answer", bound=Hashable)
Near = tuple[float, Entry]
"""A cosine and what is as near as that."""

# Near enough to be worth telling the caller, though not to be served.
_CANDIDATE_MARGIN = 0.1
# Entries whose prompts stay read, about 2 KB each: those that are looked at again and again.
_KEPT: Final = 8_192


class Standing(NamedTuple):
    """How one of the near answers stands among them.

    `nearest` is the cosine of the nearest prompt that has it, `lead` how much nearer that is than that of any other
    answer, 0 without one; `votes` are for it, `rival` those for the best other one, `share` is its share of all.
    """

    nearest: float
    votes: float
    rival: float
    lead: float
    share: float


ALONE: Final = Standing(0.0, 0.0, 0.0, 0.0, 0.0)


class Judge:
    """Guard and verifier over entries.

    Args:
        verifier: the fitted model.
        encoder: digest of the encoder in use; with another than the verifier's own, probabilities cannot be told.
    """

    def __init__(self, verifier: Verifier, encoder: str) -> None:
        self._verifier = verifier
        self.calibrated = verifier.encoder == encoder
        # By row, too, so that no scope is faster for what another has stored.
        self._prepared: LRUCache[tuple[int, str], Prepared] = LRUCache(_KEPT)

    def judge(
        self, read: Callable[[], Prepared], near: Iterable[Near], floor: float = LEAST_COSINE
    ) -> tuple[Judged, ...]:
        """Return what is thought of each near entry, in the order given; see `look`."""
        return tuple([self.look(read, similarity, entry, ALONE, floor) for similarity, entry in near])

    def look(
        self,
        read: Callable[[], Prepared],
        similarity: float,
        entry: Entry,
        stands: Standing,
        floor: float = LEAST_COSINE,
    ) -> Judged:
        """Return what is thought of an entry.

        Args:
            read: returns what is asked, prepared (`reading`); called only if there is anything to compare it with.
            similarity: cosine of its prompt and what is asked.
            entry: of the prompt's scope and context.
            stands: how its answer does.
            floor: the least cosine; what is further away is refused as "below_threshold" and not compared.
        """
        if similarity < floor:
            return Judged(entry, similarity, None, "below_threshold", stands.lead, stands.share)
        probability, refused, features = self._verifier.judge(read(), self._read(entry), similarity)
        told = probability if self.calibrated else None
        why = refused[0] if refused else ""
        return Judged(entry, similarity, told, why, stands.lead, stands.share, features)

    def forget(self, entry: Entry) -> None:
        """Forget what an entry's prompt says: it is removed or replaced, and may not linger here either."""
        self._prepared.pop((entry.row, entry.prompt), None)

    def _read(self, entry: Entry) -> Prepared:
        """Read an entry's prompt, or remember what it says."""
        key = entry.row, entry.prompt
        found = self._prepared.get(key)
        if found is None:
            found = self._prepared[key] = prepare(entry.prompt)
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
    known: Prepared | None = None

    def read() -> Prepared:
        nonlocal known
        if known is None:
            known = prepare(prompt.text)
        return known

    return read


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
    if options.mode is not CacheMode.DEFAULT:
        return "not_asked_for"
    if not budget_of(options, settings):
        return "no_error_budget"
    if prompt.turns > settings.max_turns:
        return "too_many_turns"
    return "truncated" if truncated else ""


def verify(
    judge: Judge,
    prompt: Prompt,
    near: Sequence[Near],
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
    answers, votes = answered(alive, lambda entry: entry.answer_id)
    read, judged = reading(prompt), []
    for similarity, entry in alive:
        stands = standing(entry.answer_id, answers, votes)
        judged.append(refuse(judge.look(read, similarity, entry, stands, settings.threshold), request, settings, now))
    served = max((found for found in judged if not found.refused_by), key=likelihood, default=None)
    return served, tuple(judged)


def answered(
    near: Iterable[Near], answer: Callable[[Entry], Answer]
) -> tuple[dict[Answer, list[Near]], dict[Answer, float]]:
    """Return the entries that have each answer, nearest first as they come, and the votes for it."""
    answers: dict[Answer, list[Near]] = {}
    votes: dict[Answer, float] = {}
    for similarity, entry in near:
        mine = answer(entry)
        answers.setdefault(mine, []).append((similarity, entry))
        votes[mine] = votes.get(mine, 0.0) + vote(similarity)
    return answers, votes


def standing(answer: Answer, answers: Mapping[Answer, Sequence[Near]], votes: Mapping[Answer, float]) -> Standing:
    """Return how an answer stands among all that are voted on."""
    rival, nearest = 0.0, answers[answer][0][0]
    others = -1.0
    for other, voted in votes.items():
        if other != answer:
            rival, others = max(rival, voted), max(others, answers[other][0][0])
    own, lead = votes[answer], nearest - others if len(votes) > 1 else 0.0
    return Standing(nearest, own, rival, lead, own / sum(votes.values()))


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
    return found._replace(refused_by=why)
