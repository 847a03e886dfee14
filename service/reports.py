"""What callers say happened: closes a decision, removes a wrong answer, and may fill the cache.

Checks what may be stored; storing itself is `service.answers`.
"""

import asyncio
import hmac
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from index.encoder import Encoder
from index.records import Answer
from index.store import Kind, RecordKey
from index.text import Context, content_digest
from index.view import View
from service.answers import Answers
from service.cache.personal import kinds
from service.cache.storable import blank, entry_id, expiry, too_hot
from service.errors import PreconditionFailed
from service.lessons import Confirmed, Lessons
from service.policy.facts import category
from service.requests import LAPSED, Decision, Outcome, Prompt, Request
from service.settings import CacheSettings

# Texts up to this length are looked through at once, in half a millisecond; longer ones on a thread.
_AT_ONCE: Final = 4 << 10

# How providers name a complete answer, whatever the case: OpenAI, Anthropic, Google, Cohere, Hugging Face; "" is for
# callers that do not say.
_COMPLETE = frozenset(
    {
        "",
        "stop",
        "completed",
        "tool_calls",
        "function_call",
        "end_turn",
        "stop_sequence",
        "tool_use",
        "complete",
        "tool_call",
        "eos_token",
    }
)


# Of one answer: enough for how people put a question, few enough that one answer does not fill its scope.
_MOST_WORDINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What a caller says of one decision.

    `ttl` in seconds; `model` is an id of the catalogue; `cost_usd` is what the answer cost, or may be taken to have;
    `category` is the prompt's.
    """

    model: str
    outcome: Outcome | None
    answer: str
    chunks: tuple[str, ...]
    finish_reason: str
    content_type: str
    source_tags: tuple[str, ...]
    ttl: float | None
    answer_wrong: bool
    cost_usd: float = 0.0
    category: str = ""
    equivalent: bool | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report led to; a stored answer is `private_to` a principal, or everyone's in its scope."""

    entry_id: str = ""
    not_stored_because: str = ""
    removed: int = 0
    private_to: str = ""


async def report(
    decision: Decision,
    fill_token: str,
    what: Report,
    answers: Answers,
    encoder: Encoder,
    settings: CacheSettings,
    lessons: Lessons,
) -> Reported:
    """Take in a report.

    Args:
        decision: the decision it is about.
        fill_token: "" or the token of the decision's plan.
        what: the report, checked against the contract's limits.
        answers: where an answer is stored or removed.
        encoder: whose vector the decision carries.
        settings: what may be stored.
        lessons: who learns from it.

    Raises:
        PreconditionFailed: the fill token is not this decision's, was used before, or has lapsed.
        StoreError: the answer could not be stored; the token stays good.
    """
    removed = await _take_back(decision, what, answers, lessons) if what.answer_wrong else 0
    confirmed = lessons.hear(decision, what.answer, what.equivalent) if what.equivalent is not None else None
    if not fill_token:
        return Reported(removed=removed)
    _check_token(decision, fill_token)
    decision.fill_token = ""  # used up while this is under way, so that a second report cannot slip in beside it
    try:
        refused = _refusal(what, settings)
        if not refused and (why := await refusal(decision.request.context, decision.prompt, what, settings)):
            refused = ": ".join(why)
        if refused:
            decision.fill_token = fill_token
            return Reported(not_stored_because=refused, removed=removed)
        if what.equivalent is None:
            confirmed = lessons.hear(decision, what.answer, None)
        of_category = category(decision.voters) if settings.categories else ""
        steps = decision.plan.steps if decision.plan is not None else ()
        planned = (step.cost_usd for step in steps if step.model == what.model)
        what = replace(what, cost_usd=what.cost_usd or next(planned, 0.0), category=of_category)
        plain = to_answer(
            decision.request,
            decision.prompt,
            what,
            encoder,
            decision.vector,
            settings,
            truncated=decision.truncated,
            now=answers.clock.now(),
        )
        answer = _joined(plain, confirmed, what, answers.view) if confirmed is not None else plain
        stored, _ = await answers.put(answer)
        if answer.wording_of and answers.view.by_id(plain.scope, plain.id) is None:  # what it joined went meanwhile
            stored, _ = await answers.put(plain)
    except BaseException:
        decision.fill_token = fill_token
        raise
    return Reported(entry_id=stored.wording_of or stored.id, removed=removed, private_to=stored.private_to)


async def _take_back(decision: Decision, what: Report, answers: Answers, lessons: Lessons) -> int:
    """Remove the answer that is reported as wrong, and learn from it; return how many went."""
    if decision.hit is not None:
        wrong = decision.hit.answer
        lessons.complain(decision)
        if not _is_there(wrong, answers.view):
            return 0
        key = RecordKey(Kind.ANSWER, wrong.scope, wrong.id)
    else:  # a reviewed answer, which may have been stored before anyone knew
        request = decision.request
        entry = answers.view.exact(request.scope, decision.prompt.key, request.private_to)
        if entry is None or entry.model != what.model:
            return 0
        key = RecordKey(Kind.ANSWER, entry.scope, entry.id)
    await answers.quarantine(key)
    return 1


def _is_there(wrong: Answer, view: View) -> bool:
    """Return whether what was served is still there, and was not put right meanwhile."""
    there = view.by_id(wrong.scope, wrong.id)
    if there is None:
        return False
    # Of a decision before a restart only is known when its answer was stored.
    return there.meaning == wrong.meaning if wrong.meaning else there.stored_at <= wrong.stored_at


def _joined(answer: Answer, confirmed: Confirmed, what: Report, view: View) -> Answer:
    """Return an answer as another wording of the one it is equivalent to, or, where it must stay, joined with it.

    It stays where the two may lapse, or be invalidated, at other times, where they are not for the same callers, or
    where the other is gone.
    """
    entry = confirmed.entry
    said = view.by_id(entry.scope, entry.answer_id)
    if said is None or said.meaning != entry.meaning or said.id == answer.id:
        return answer
    if (
        not confirmed.sure
        or what.ttl is not None
        or said.private_to != answer.private_to
        or not set(what.source_tags) <= set(said.source_tags)
        or len(view.wordings(said.scope, said.id)) >= _MOST_WORDINGS
    ):
        return replace(answer, meaning=said.meaning)
    return as_wording(answer, said.id)


def as_wording(answer: Answer, said: str) -> Answer:
    """Return an answer as a further prompt of the one with an id: without a text of its own."""
    return replace(answer, content="", chunks=(), wording_of=said, meaning=b"", size=len(answer.prompt.encode()))


async def refusal(
    context: Context | None, prompt: Prompt, what: Report, settings: CacheSettings
) -> tuple[str, str] | None:
    """Return the field because of which an answer may not be stored, and why, be it reported or put; None: it may.

    Args:
        context: what it depends on.
        prompt: what it answers.
        what: the answer.
        settings: of its scope.
    """
    if context is not None and (hot := too_hot(context.sampling, settings)):
        return "context.sampling", hot
    if settings.personal_data == "store":
        return None
    for name, text in (("answer", what.answer), ("prompt", prompt.text)):
        look = partial(kinds, text, settings.phone_regions, settings.public_contacts)
        found = look() if len(text) <= _AT_ONCE else await asyncio.to_thread(look)
        if found:
            return name, f"carries personal data ({', '.join(found)}); see cache.personal_data"
    return None


def to_answer(
    request: Request,
    prompt: Prompt,
    what: Report,
    encoder: Encoder,
    vector: bytes,
    settings: CacheSettings,
    *,
    truncated: bool,
    now: float,
) -> Answer:
    """Return an answer ready to be stored.

    Args:
        request: whose it is.
        prompt: what it answers.
        what: the answer itself.
        encoder: of the vector.
        vector: of the prompt, float32 in bytes.
        settings: of the scope, for the time to live.
        truncated: whether the vector speaks only for the prompt's beginning.
        now: seconds since the epoch.
    """
    semantic = prompt.turns <= settings.max_turns and not prompt.exact_only
    size = len(prompt.text.encode()) + len(what.answer.encode()) * (2 if what.chunks else 1)
    return Answer(
        id=entry_id(prompt.key, request.private_to),
        scope=request.scope,
        key=prompt.key,
        context=prompt.context,
        prompt=prompt.text,
        content=what.answer,
        model=what.model,
        encoder=encoder.digest,
        # What may only be hit exactly needs no vector.
        vector=vector if semantic else b"",
        stored_at=now,
        expires_at=expiry(now, what.ttl, settings, what.category),
        chunks=what.chunks,
        content_type=what.content_type or "text/plain",
        source_tags=what.source_tags,
        truncated=truncated,
        cost_usd=what.cost_usd,
        size=size,
        private_to=request.private_to,
        meaning=content_digest(what.answer),
    )


def _check_token(decision: Decision, token: str) -> None:
    if decision.lease_until == LAPSED:
        why = "it is only remembered until a restart, and for decisions.keep later decisions"
        raise PreconditionFailed("FILL_TOKEN_LAPSED", "fill_token", f"the fill token has lapsed: {why}")
    if not decision.fill_token:
        raise PreconditionFailed(
            "FILL_TOKEN_USED",
            "fill_token",
            "the fill token was used before, or this decision gave none out",
        )
    if not hmac.compare_digest(decision.fill_token.encode(), token.encode()):
        raise PreconditionFailed(
            "FILL_TOKEN_UNKNOWN",
            "fill_token",
            "not the fill token of this decision: give back the plan's own",
        )
    if time.perf_counter() > decision.lease_until:
        raise PreconditionFailed(
            "FILL_TOKEN_LAPSED",
            "fill_token",
            "the fill token has lapsed: decide again, or raise cache.lease_s",
        )


def _refusal(what: Report, settings: CacheSettings) -> str:
    """Return why an answer may not be stored, "" where it may."""
    if what.outcome is not Outcome.OK:
        return "the outcome was not OK"
    if what.answer_wrong:
        return "the answer is reported as wrong"
    if blank(what.answer):
        return "the answer is empty"
    if what.finish_reason.lower() not in _COMPLETE:
        return f"finish_reason {what.finish_reason!r} is not that of a complete answer"
    large = oversize(what.answer, settings)
    return f"the answer is {large}" if large else ""


def oversize(answer: str, settings: CacheSettings) -> str:
    """Return in words that an answer is larger than what is stored, "" where it is not."""
    large = len(answer.encode()) > settings.max_answer_kib * 1_024
    return f"larger than cache.max_answer_kib ({settings.max_answer_kib})" if large else ""
