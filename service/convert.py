"""Between the contract's messages and the service's own values; with service.server the only user of protobuf.

Every limit of the contract is checked here, once, on the way in: each function returns a value or raises
InvalidRequest that names the fields and the remedy.
"""

import math
import re
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from index.catalogue import Catalogue
from index.records import Answer, Message, Model, Reference
from index.text import Context
from index.view import Entry
from service.errors import InvalidRequest
from service.requests import (
    DEFAULT_SCOPE,
    NO_CACHE_OPTIONS,
    NO_ROUTE_OPTIONS,
    STAGES,
    CacheMode,
    CacheOptions,
    Decision,
    Estimate,
    Request,
    RouteOptions,
    Timings,
)

MIB: Final = 1 << 20
MAX_ANSWER: Final = 4 * MIB
MAX_TURNS: Final = 1_000
MAX_BATCH: Final = 1_024
MAX_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
_SCOPE = re.compile(r"[A-Za-z0-9._:/@-]{1,128}\Z")
_ROLES: Final = ("system", "user", "assistant", "tool")
_MAX_WAIT_S: Final = 60.0
_MAX_SECONDS: Final = 315_576_000_000  # what a Duration may hold: 10,000 years
_LATEST: Final = 253_402_300_799  # what a Timestamp may hold: the end of the year 9999
_SHOWN: Final = 500


# ---- in: shared parts ---------------------------------------------------------------------------------------


def scope_of(name: str) -> str:
    """Return the scope a request names; the empty name is the default scope."""
    if not name:
        return DEFAULT_SCOPE
    if not _SCOPE.match(name):
        raise InvalidRequest(("scope", f"{name[:64]!r}: use 1 to 128 of A-Z a-z 0-9 . _ : / @ -"))
    return name


def _sized(field: str, text: str, limit: int) -> str:
    # A character is at most four bytes: most texts need not be encoded to know that they fit.
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise InvalidRequest((field, f"{len(text.encode()):,} bytes, at most {limit:,} are taken"))
    return text


def _number(field: str, value: float, low: float, high: float = math.inf) -> float:
    if not (low <= value <= high) or math.isinf(value):
        span = f"{low:g} to {high:g}" if high != math.inf else f"at least {low:g}, and finite"
        raise InvalidRequest((field, f"{value!r}: must be {span}"))
    return value


def _seconds(field: str, duration: Duration, *, zero: bool = False) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    enough = seconds > 0 or (seconds == 0 and zero)
    if not enough or seconds > _MAX_SECONDS or abs(duration.nanos) > 999_999_999:  # noqa: PLR2004 - nanos
        raise InvalidRequest(
            (field, f"{seconds!r} s: must be {'at least 0' if zero else 'more than 0'} and at most {_MAX_SECONDS:,} s")
        )
    return seconds


def _count(field: str, values: Sized, limit: int) -> None:
    if len(values) > limit:
        raise InvalidRequest((field, f"{len(values):,} given, at most {limit:,} are taken"))


def _prompt(prompt: str, messages: Sequence[types_pb2.Message]) -> tuple[str, tuple[Message, ...]]:
    """Return the text to decide on, and the turns before it."""
    if messages:
        if prompt:
            raise InvalidRequest(("messages", "give either prompt or messages, not both"))
        _count("messages", messages, MAX_TURNS)
        for i, message in enumerate(messages):
            if message.role not in _ROLES:
                raise InvalidRequest(
                    (
                        f"messages[{i}].role",
                        f"{message.role[:64]!r}: must be one of {', '.join(_ROLES)}",
                    )
                )
        if messages[-1].role not in ("user", "tool"):
            raise InvalidRequest(
                (
                    f"messages[{len(messages) - 1}].role",
                    "the last turn must be the user's or a tool's",
                )
            )
        if sum(len(m.content.encode()) for m in messages) > MIB:
            raise InvalidRequest(("messages", f"more than {MIB:,} bytes in all"))
        text, field = messages[-1].content, f"messages[{len(messages) - 1}].content"
    else:
        text, field = _sized("prompt", prompt, MIB), "prompt"
    if not text.strip():
        raise InvalidRequest((field, "empty: give the text to decide on"))
    return text, tuple(Message(m.role, m.content) for m in messages[:-1])


def _context(message: types_pb2.AnswerContext) -> Context:
    _count("context.extra", message.extra, 64)
    context = Context(
        message.system_prompt,
        message.tools,
        message.response_format,
        message.sampling,
        dict(message.extra),
    )
    texts = (context.system_prompt, context.tools, context.response_format, context.sampling)
    pairs = (part for pair in context.extra.items() for part in pair)
    if sum(len(t.encode()) for t in (*texts, *pairs)) > MIB:
        raise InvalidRequest(("context", f"more than {MIB:,} bytes in all"))
    return context


def _models(field: str, names: Iterable[str], catalogue: Catalogue) -> frozenset[str]:
    found = []
    for name in names:
        model = catalogue.resolve(name)
        if model is None:
            raise InvalidRequest((field, f"{name[:256]!r} is not in the catalogue: {_known(catalogue)}"))
        found.append(model)
    return frozenset(found)


def _known(catalogue: Catalogue) -> str:
    shown = ", ".join(catalogue.ids[:20])
    return f"it has {shown}" + (", …" if len(catalogue.ids) > 20 else "")  # noqa: PLR2004 - enough to see


def _cache(message: types_pb2.CacheControl) -> CacheOptions:
    try:
        mode = CacheMode(message.mode or 1)
    except ValueError:
        raise InvalidRequest(("cache.mode", f"{message.mode} is not a CacheMode")) from None
    has = message.HasField
    wait = _seconds("cache.wait", message.wait, zero=True) if has("wait") else 0.0
    return CacheOptions(
        mode=mode,
        max_age=_seconds("cache.max_age", message.max_age) if has("max_age") else None,
        error_budget=_number("cache.error_budget", message.error_budget, 0, 1) if has("error_budget") else None,
        wait=_number("cache.wait", wait, 0, _MAX_WAIT_S),
    )


def _route(message: types_pb2.RouteControl, catalogue: Catalogue) -> RouteOptions:
    has = message.HasField
    for field in ("allow_models", "deny_models"):
        _count(f"route.{field}", getattr(message, field), 256)
    _count("route.require", message.require, 64)
    _sized("route.experiment_unit", message.experiment_unit, 256)
    if message.shape not in types_pb2.PlanShape.values():
        raise InvalidRequest(("route.shape", f"{message.shape} is not a PlanShape"))
    if message.shape > types_pb2.PLAN_SHAPE_SINGLE:
        name = types_pb2.PlanShape.Name(message.shape)
        raise InvalidRequest(("route.shape", f"{name} is not offered by this version: use PLAN_SHAPE_SINGLE"))
    if has("willingness_to_pay") and not message.willingness_to_pay > 0:
        raise InvalidRequest(("route.willingness_to_pay", "must be more than 0 USD per point of quality"))

    def number(name: str, low: float, high: float) -> float | None:
        return _number(f"route.{name}", getattr(message, name), low, high) if has(name) else None  # type: ignore[arg-type]

    tokens = number("expected_output_tokens", 1, 1_000_000)
    return RouteOptions(
        allow=_models("route.allow_models", message.allow_models, catalogue),
        deny=_models("route.deny_models", message.deny_models, catalogue),
        require=frozenset(message.require),
        max_cost_usd=number("max_cost_usd", 0, math.inf),
        max_latency_s=_seconds("route.max_latency", message.max_latency) if has("max_latency") else None,
        min_quality=number("min_quality", 0, 1),
        willingness_to_pay=number("willingness_to_pay", 0, math.inf),
        output_tokens=int(tokens) if tokens is not None else None,
        pin=next(iter(_models("route.pin_model", [message.pin_model], catalogue))) if message.pin_model else "",
    )


# ---- in: whole requests -------------------------------------------------------------------------------------


def to_request(message: router_pb2.DecideRequest, catalogue: Catalogue) -> Request:
    """Return a request to decide on, or raise InvalidRequest."""
    has = message.HasField
    text, history = _prompt(message.prompt, message.messages)
    attributes: dict[str, str] = {}
    if message.attributes:
        _count("attributes", message.attributes, 64)
        attributes = dict(message.attributes)
        for name, value in attributes.items():
            _sized("attributes", name, 1_024)
            _sized(f"attributes[{name[:64]!r}]", value, 1_024)
    return Request(
        scope=scope_of(message.scope),
        text=text,
        history=history,
        context=_context(message.context) if has("context") else None,
        cache=_cache(message.cache) if has("cache") else NO_CACHE_OPTIONS,
        route=_route(message.route, catalogue) if has("route") else NO_ROUTE_OPTIONS,
        conversation_id=_sized("conversation_id", message.conversation_id, 256),
        attributes=attributes,
        explain=message.explain,
        request_id=_sized("request_id", message.request_id, 256),
        role=message.messages[-1].role if message.messages else "user",
    )


def to_batch(message: router_pb2.DecideBatchRequest) -> Sequence[router_pb2.DecideRequest]:
    """Return the requests of a batch, not yet checked one by one."""
    if not message.requests:
        raise InvalidRequest(("requests", "empty: give at least one request"))
    _count("requests", message.requests, MAX_BATCH)
    return message.requests


def to_answer_text(answer: str, chunks: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return an answer and its chunks, which must agree."""
    whole = "".join(chunks)
    if answer and chunks and whole != answer:
        raise InvalidRequest(("chunks", "together they are not `answer`; give one of the two, or make them equal"))
    return _sized("answer", answer or whole, MAX_ANSWER), tuple(chunks)


def to_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return source tags, checked and without repeats."""
    _count("source_tags", tags, 64)
    for i, tag in enumerate(tags):
        if not tag:
            raise InvalidRequest((f"source_tags[{i}]", "empty"))
        _sized(f"source_tags[{i}]", tag, 256)
    return tuple(dict.fromkeys(tags))


def to_ttl(message: router_pb2.ReportRequest | cache_pb2.PutRequest) -> float | None:
    """Return the time to live in seconds, None where the service's setting holds."""
    return _seconds("ttl", message.ttl) if message.HasField("ttl") else None


def to_put(message: cache_pb2.PutRequest) -> tuple[Request, str, tuple[str, ...]]:
    """Return a request for the prompt of a Put, and the answer with its chunks."""
    text, history = _prompt(message.prompt, message.messages)
    answer, chunks = to_answer_text(message.answer, message.chunks)
    if not answer.strip():
        raise InvalidRequest(("answer", "empty: give the answer to store"))
    _sized("content_type", message.content_type, 256)
    _sized("model", message.model, 256)
    context = _context(message.context) if message.HasField("context") else None
    role = message.messages[-1].role if message.messages else "user"
    return Request(scope_of(message.scope), text, history, context, role=role), answer, chunks


def check_report(message: router_pb2.ReportRequest, catalogue: Catalogue, *, was_hit: bool) -> str:
    """Return the id of the reported model, "" where none is needed; raise InvalidRequest where a field is wrong."""
    if message.outcome not in types_pb2.Outcome.values():
        raise InvalidRequest(("outcome", f"{message.outcome} is not an Outcome"))
    if not was_hit and not message.outcome:
        raise InvalidRequest(("outcome", "required: how did the model call end?"))
    if not was_hit and not message.model:
        raise InvalidRequest(("model", "required: which model was called?"))
    if message.HasField("quality"):
        _number("quality", message.quality, 0, 1)
    if message.HasField("latency"):
        _seconds("latency", message.latency, zero=True)
    if message.HasField("usage"):
        usage = message.usage
        _number("usage.input_tokens", usage.input_tokens, 0)
        _number("usage.output_tokens", usage.output_tokens, 0)
        if usage.HasField("cost_usd"):
            _number("usage.cost_usd", usage.cost_usd, 0)
    _sized("finish_reason", message.finish_reason, 256)
    _sized("content_type", message.content_type, 256)
    if message.HasField("answer_wrong") and message.answer_wrong and not was_hit:
        raise InvalidRequest(("answer_wrong", "this decision served no cached answer"))
    return next(iter(_models("model", [message.model], catalogue))) if message.model else ""


@dataclass(frozen=True, slots=True)
class Invalidation:
    """Which answers to remove: all conditions that are given must hold. `before`: seconds since the epoch."""

    entry_ids: frozenset[str]
    source_tags: frozenset[str]
    model: str
    before: float | None
    radius: tuple[str, float] | None

    def matches(self, entry: Entry, near: frozenset[str] | None) -> bool:
        """Return whether an entry is meant; `near` are the ids within the radius, where one is given."""
        return (
            (not self.entry_ids or entry.id in self.entry_ids)
            and (not self.source_tags or not self.source_tags.isdisjoint(entry.source_tags))
            and (not self.model or entry.model == self.model)
            and (self.before is None or entry.stored_at <= self.before)
            and (near is None or entry.id in near)
        )


def to_invalidation(message: cache_pb2.InvalidateRequest, now: float) -> Invalidation:
    """Return which answers are meant; `now` in seconds since the epoch."""
    _count("entry_ids", message.entry_ids, 10_000)
    _sized("model", message.model, 256)
    wanted = Invalidation(
        entry_ids=frozenset(message.entry_ids),
        source_tags=frozenset(to_tags(message.source_tags)),
        model=message.model,
        before=now - _seconds("older_than", message.older_than) if message.HasField("older_than") else None,
        radius=_radius(message.radius) if message.HasField("radius") else None,
    )
    limited = wanted != Invalidation(frozenset(), frozenset(), "", None, None)
    if limited == message.all:
        raise InvalidRequest(
            (
                "all",
                "set `all` to remove every answer of the scope, or give at least one condition; not both",
            )
        )
    return wanted


def _radius(message: cache_pb2.Radius) -> tuple[str, float]:
    if not message.prompt.strip():
        raise InvalidRequest(("radius.prompt", "empty: give the text in the middle"))
    return _sized("radius.prompt", message.prompt, MIB), _number("radius.min_similarity", message.min_similarity, -1, 1)


def to_ids(field: str, ids: Sequence[str], limit: int) -> list[str]:
    """Return ids without repeats, at least one."""
    if not ids:
        raise InvalidRequest((field, "empty: give at least one"))
    _count(field, ids, limit)
    return list(dict.fromkeys(ids))


def to_references(message: references_pb2.UpsertRequest, catalogue: Catalogue) -> list[Reference]:
    """Return the references of an Upsert, which must name different ids."""
    if not message.references:
        raise InvalidRequest(("references", "empty: give at least one"))
    _count("references", message.references, 1_000)
    found: dict[str, Reference] = {}
    for i, one in enumerate(message.references):
        reference = to_reference(one, f"references[{i}]", catalogue)
        if reference.id in found:
            raise InvalidRequest((f"references[{i}].id", f"{reference.id!r} is given twice"))
        found[reference.id] = reference
    return list(found.values())


def to_page(message: cache_pb2.ListAnswersRequest | references_pb2.ListRequest) -> tuple[int, int]:
    """Return (after, limit) of a page."""
    if not 0 <= message.page_size <= MAX_PAGE:
        raise InvalidRequest(("page_size", f"{message.page_size}: must be 0 (for {DEFAULT_PAGE}) to {MAX_PAGE}"))
    token = message.page_token
    if token and not (token.isascii() and token.isdecimal() and len(token) < 19):  # noqa: PLR2004 - fits 64 bits
        raise InvalidRequest(("page_token", "not one of this service's: take it from the previous page"))
    return int(token or 0), message.page_size or DEFAULT_PAGE


def to_reference(message: references_pb2.Reference, place: str, catalogue: Catalogue) -> Reference:
    """Return a live reference; `place` names it in errors."""
    if not message.id:
        raise InvalidRequest((f"{place}.id", "required"))
    try:
        text, history = _prompt(message.prompt, message.messages)
        _sized("id", message.id, 256)
        for field, limit in (("category", 256), ("source", 256), ("note", 4_096)):
            _sized(field, getattr(message, field), limit)
        if bool(message.best_model) == bool(message.scores):
            raise InvalidRequest(("best_model", "give either best_model or scores"))
        best = _models("best_model", [message.best_model] if message.best_model else [], catalogue)
        scores = _per_model("scores", message.scores, catalogue, 1.0)
        costs = _per_model("costs", message.costs, catalogue, math.inf)
    except InvalidRequest as error:
        raise InvalidRequest(*((f"{place}.{field}", why) for field, why in error.violations)) from None
    turns = (*history, Message(message.messages[-1].role, text)) if message.messages else ()
    return Reference(
        message.id,
        text,
        next(iter(best), ""),
        scores,
        costs,
        turns,
        message.category,
        message.source,
        message.note,
    )


def _per_model(field: str, values: Any, catalogue: Catalogue, high: float) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in values.items():
        model = next(iter(_models(field, [name], catalogue)))
        if model in out:
            raise InvalidRequest((f"{field}[{name!r}]", f"{model} is given twice, by id and by alias"))
        out[model] = _number(f"{field}[{name!r}]", value, 0, high)
    return out


# ---- out ----------------------------------------------------------------------------------------------------


def duration(seconds: float) -> Duration:
    """Return seconds as a Duration."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def timestamp(seconds: float) -> Timestamp:
    """Return seconds since the epoch as a Timestamp, which ends with the year 9999."""
    seconds = min(seconds, _LATEST)
    whole = math.floor(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def from_decision(decision: Decision, *, explain: bool = False) -> router_pb2.DecideResponse:
    """Return the response for a decision, with its explanation where asked for."""
    response = router_pb2.DecideResponse(
        decision_id=decision.id,
        generation=decision.generation,
        degraded=types_pb2.DEGRADED_NO_EMBEDDING if decision.degraded else types_pb2.DEGRADED_NONE,
    )
    if decision.hit is not None:
        _fill_answer(response.answer, decision)
    else:
        _fill_plan(response.plan, decision)
        response.plan.fill_token = decision.fill_token
    _fill_timings(response.timings, decision.timings)
    if explain:
        _fill_explanation(response.explanation, decision)
    return response


def from_explained(decision: Decision) -> admin_pb2.ExplainResponse:
    """Return one decision in full: without the content of a cached answer and without the fill token."""
    response = admin_pb2.ExplainResponse(
        decision_id=decision.id,
        scope=decision.request.scope,
        decided_at=timestamp(decision.decided_at),
        prompt=decision.request.text,
        generation=decision.generation,
        degraded=types_pb2.DEGRADED_NO_EMBEDDING if decision.degraded else types_pb2.DEGRADED_NONE,
        request_id=decision.request.request_id,
    )
    if decision.hit is not None:
        _fill_answer(response.answer, decision, content=False)
    else:
        _fill_plan(response.plan, decision)
    _fill_timings(response.timings, decision.timings)
    _fill_explanation(response.explanation, decision)
    return response


def _fill_answer(out: types_pb2.CachedAnswer, decision: Decision, *, content: bool = True) -> None:
    hit = decision.hit
    assert hit is not None  # noqa: S101 - the caller looked
    answer = hit.answer
    out.entry_id = answer.id
    if content:
        out.content = answer.content
        if answer.chunks:
            out.chunks.extend(answer.chunks)
    out.content_type = answer.content_type
    out.model = answer.model
    out.match = types_pb2.MATCH_EXACT if hit.exact else types_pb2.MATCH_SEMANTIC
    out.similarity = hit.similarity
    out.stored_at.CopyFrom(timestamp(answer.stored_at))
    out.matched_prompt = answer.prompt


def _fill_plan(out: types_pb2.Plan, decision: Decision) -> None:
    plan = decision.plan
    assert plan is not None  # noqa: S101 - the caller looked
    for step in plan.steps:
        message = out.steps.add(model=step.model, quality=step.quality, cost_usd=step.cost_usd)
        if step.latency_s is not None:
            message.latency.CopyFrom(duration(step.latency_s))
    out.confidence = plan.confidence
    out.reason = plan.reason.value  # type: ignore[assignment]
    if plan.infeasible:
        out.infeasible.extend(plan.infeasible)
    if decision.candidate is not None:
        out.candidate.entry_id = decision.candidate.entry.id
        out.candidate.similarity = decision.candidate.similarity
        out.candidate.refused_by = decision.candidate.refused_by


def _fill_timings(out: types_pb2.Timings, timings: Timings) -> None:
    # Every stage is far below a second: only the nanos are set, which is half the cost of a Duration.
    out.total.seconds, out.total.nanos = int(timings.total), int(timings.total % 1 * 1e9)
    for stage in STAGES:
        seconds = getattr(timings, stage)
        if seconds is not None:
            message = getattr(out, stage)
            if seconds >= 1:
                message.seconds = int(seconds)
            message.nanos = int(seconds % 1 * 1e9)
            if not seconds:
                message.SetInParent()


def _fill_explanation(out: types_pb2.Explanation, decision: Decision) -> None:
    for estimate in sorted(decision.estimates, key=lambda e: -e.quality):
        out.estimates.append(_estimate(estimate))
    for neighbour in decision.neighbours:
        reference = neighbour.reference
        out.neighbours.add(
            reference_id=reference.id,
            similarity=neighbour.similarity,
            best_model=best_model(reference),
            category=reference.category,
            weight=neighbour.weight,
            prompt=reference.prompt[:_SHOWN],
        )
    if decision.plan is not None and decision.request.route.pin:
        out.rule = "route.pin_model"
    for stage, note in decision.notes:
        out.notes.add(stage=stage, note=note)


def _estimate(estimate: Estimate) -> types_pb2.ModelEstimate:
    message = types_pb2.ModelEstimate(
        model=estimate.model,
        quality=estimate.quality,
        quality_low=estimate.quality_low,
        cost_usd=estimate.cost_usd,
    )
    if estimate.latency_s is not None:
        message.latency.CopyFrom(duration(estimate.latency_s))
    return message


def best_model(reference: Reference) -> str:
    """Return the model a reference names or scores best; of equals the first by name."""
    if reference.best_model or not reference.scores:
        return reference.best_model
    return min(reference.scores, key=lambda name: (-reference.scores[name], name))


def from_answer(answer: Answer) -> cache_pb2.StoredAnswer:
    """Return an answer as the list shows it."""
    message = cache_pb2.StoredAnswer(
        entry_id=answer.id,
        prompt=answer.prompt,
        content=answer.content,
        model=answer.model,
        content_type=answer.content_type,
        source_tags=answer.source_tags,
        stored_at=timestamp(answer.stored_at),
        context_fingerprint=answer.context.hex(),
        truncated=answer.truncated,
    )
    if answer.expires_at:
        message.expires_at.CopyFrom(timestamp(answer.expires_at))
    return message


def from_reference(reference: Reference) -> references_pb2.Reference:
    """Return a live reference as the list shows it."""
    return references_pb2.Reference(
        id=reference.id,
        prompt="" if reference.messages else reference.prompt,
        messages=[types_pb2.Message(role=m.role, content=m.content) for m in reference.messages],
        best_model=reference.best_model,
        scores=reference.scores,
        costs=reference.costs,
        category=reference.category,
        source=reference.source,
        note=reference.note,
    )


def from_model(model: Model) -> admin_pb2.ModelInfo:
    """Return a model of the catalogue."""
    return admin_pb2.ModelInfo(
        id=model.id,
        aliases=model.aliases,
        input_usd_per_mtok=model.input_usd_per_mtok,
        output_usd_per_mtok=model.output_usd_per_mtok,
        context_window=model.context_window,
        tier=model.tier,
        capabilities=sorted(model.capabilities),
        kind=model.kind,
    )


def page_of(messages: Iterable[tuple[int, ProtoMessage]], limit: int) -> tuple[list[Any], str]:
    """Return the messages of a page of at most 8 MiB, and the token of the next ("" where this is the last).

    Args:
        messages: (sequence number, message), at most `limit` + 1 of them.
        limit: the most messages on a page.
    """
    page: list[Any] = []
    size, last = 0, 0
    for seq, message in messages:
        size += message.ByteSize()
        if page and (len(page) == limit or size > 8 * MIB):
            return page, str(last)
        page.append(message)
        last = seq
    return page, ""
