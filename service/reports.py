"""What callers say happened: closes a decision, removes a wrong answer, and may fill the cache.

Checks what may be stored; storing itself is `service.answers`.
"""

import hmac
import time
from dataclasses import dataclass, replace
from typing import Final

from index.encoder import Encoder
from index.records import Answer
from index.store import Kind, RecordKey
from index.text import content_digest
from index.view import View
from service.answers import Answers
from service.errors import PreconditionFailed
from service.lessons import Confirmed, Lessons
from service.requests import LAPSED, Decision, Outcome, Prompt
from service.settings import CacheSettings

# How providers name a complete answer: OpenAI, Anthropic, Google, Cohere; "" is for callers that do not say.
_COMPLETE = frozenset(
    {
        "",
        "stop",
        "tool_calls",
        "function_call",
        "end_turn",
        "stop_sequence",
        "tool_use",
        "STOP",
        "COMPLETE",
    }
)


# Of one answer: enough for how people put a question, few enough that one answer does not fill its scope.
_MOST_WORDINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What a caller says of one decision. `ttl` in seconds; `model` is an id of the catalogue."""

    model: str
    outcome: Outcome | None
    answer: str
    chunks: tuple[str, ...]
    finish_reason: str
    content_type: str
    source_tags: tuple[str, ...]
    ttl: float | None
    answer_wrong: bool
    equivalent: bool | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report led to."""

    entry_id: str = ""
    not_stored_because: str = ""
    removed: int = 0


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
    removed = 0
    if what.answer_wrong and decision.hit is not None:
        wrong = decision.hit.answer
        lessons.complain(decision)
        removed = int(answers.view.by_id(wrong.scope, wrong.id) is not None)
        await answers.remove([RecordKey(Kind.ANSWER, wrong.scope, wrong.id)])
    elif what.answer_wrong:  # a reviewed answer, which may have been stored before anyone knew
        scope, entry_id = decision.request.scope, decision.prompt.key[:16].hex()
        entry = answers.view.by_id(scope, entry_id)
        if entry is not None and entry.model == what.model:
            removed = 1
            await answers.remove([RecordKey(Kind.ANSWER, scope, entry_id)])
    confirmed = lessons.hear(decision, what.answer, what.equivalent) if what.equivalent is not None else None
    if not fill_token:
        return Reported(removed=removed)
    _check_token(decision, fill_token)
    refused = _refusal(what, settings)
    if refused:
        return Reported(not_stored_because=refused, removed=removed)
    if what.equivalent is None:
        confirmed = lessons.hear(decision, what.answer, None)
    scope, prompt, truncated = decision.request.scope, decision.prompt, decision.truncated
    answer = to_answer(scope, prompt, what, encoder, decision.vector, settings, truncated=truncated)
    if confirmed is not None:
        answer = _joined(answer, confirmed, what, answers.view)
    decision.fill_token = ""  # used up before the write, so that a second report cannot slip in beside it
    try:
        await answers.put(answer)
        if answer.wording_of and answers.view.by_id(scope, answer.id) is None:  # what it joined went meanwhile
            answer = to_answer(scope, prompt, what, encoder, decision.vector, settings, truncated=truncated)
            await answers.put(answer)
    except BaseException:
        decision.fill_token = fill_token
        raise
    return Reported(entry_id=answer.wording_of or answer.id, removed=removed)


def _joined(answer: Answer, confirmed: Confirmed, what: Report, view: View) -> Answer:
    """Return an answer as another wording of the one it is equivalent to, or, where it must stay, joined with it.

    It stays where the two may lapse, or be invalidated, at other times, or where the other is gone.
    """
    entry = confirmed.entry
    said = view.by_id(entry.scope, entry.answer_id)
    if said is None or said.meaning != entry.meaning or said.id == answer.id:
        return answer
    if (
        not confirmed.sure
        or what.ttl is not None
        or not set(what.source_tags) <= set(said.source_tags)
        or len(view.wordings(said.scope, said.id)) >= _MOST_WORDINGS
    ):
        return replace(answer, meaning=said.meaning)
    return replace(answer, content="", chunks=(), wording_of=said.id, meaning=b"")


def to_answer(
    scope: str,
    prompt: Prompt,
    what: Report,
    encoder: Encoder,
    vector: bytes,
    settings: CacheSettings,
    *,
    truncated: bool,
) -> Answer:
    """Return an answer ready to be stored.

    Args:
        scope: whose it is.
        prompt: what it answers.
        what: the answer itself.
        encoder: of the vector.
        vector: of the prompt, float32 in bytes.
        settings: for the time to live.
        truncated: whether the vector speaks only for the prompt's beginning.
    """
    now = time.time()
    ttl = settings.ttl_s if what.ttl is None else what.ttl
    return Answer(
        id=prompt.key[:16].hex(),
        scope=scope,
        key=prompt.key,
        context=prompt.context,
        prompt=prompt.text,
        content=what.answer,
        model=what.model,
        encoder=encoder.digest,
        # Conversations that may only be hit exactly need no vector: each has a context of its own anyway.
        vector=vector if prompt.turns <= settings.max_turns else b"",
        stored_at=now,
        expires_at=now + ttl if ttl else 0.0,
        chunks=what.chunks,
        content_type=what.content_type or "text/plain",
        source_tags=what.source_tags,
        truncated=truncated,
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
    if not what.answer.strip():
        return "the answer is empty"
    if what.finish_reason not in _COMPLETE:
        return f"finish_reason {what.finish_reason!r} is not that of a complete answer"
    large = oversize(what.answer, settings)
    return f"the answer is {large}" if large else ""


def oversize(answer: str, settings: CacheSettings) -> str:
    """Return in words that an answer is larger than what is stored, "" where it is not."""
    large = len(answer.encode()) > settings.max_answer_kib * 1_024
    return f"larger than cache.max_answer_kib ({settings.max_answer_kib})" if large else ""
