"""Whole requests, from messages to the service's own values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from waypost.v1 import cache_pb2, references_pb2, router_pb2, types_pb2

from index.catalogue import Catalogue
from index.records import MAX_COST_USD, Message, Reference
from index.text import answer_key
from index.view import Entry
from service.cache.storable import blank
from service.convert.fields import (
    DEFAULT_PAGE,
    MAX_ANSWER,
    MAX_BATCH,
    MAX_PAGE,
    MAX_USAGE,
    MIB,
    at_most,
    in_range,
    scope_of,
    sized,
    to_cache,
    to_context,
    to_models,
    to_prompt,
    to_route,
    to_seconds,
)
from service.errors import InvalidRequest
from service.requests import (
    NO_ATTRIBUTES,
    NO_CACHE_OPTIONS,
    NO_ROUTE_OPTIONS,
    Decision,
    Prompt,
    Request,
)
from service.routing.review import Given


def to_request(message: router_pb2.DecideRequest, catalogue: Catalogue, private_to: str = "") -> Request:
    """Return a request to decide on, or raise InvalidRequest; `private_to` is as in `Request`."""
    has = message.HasField
    text, history = to_prompt(message.prompt, message.messages)
    attributes = NO_ATTRIBUTES
    if message.attributes:
        at_most("attributes", message.attributes, 64)
        attributes = dict(message.attributes)
        for name, value in attributes.items():
            sized("attributes", name, 1_024)
            sized(f"attributes[{name[:64]!r}]", value, 1_024)
    return Request(
        scope=scope_of(message.scope),
        text=text,
        history=history,
        context=to_context(message.context) if has("context") else None,
        cache=to_cache(message.cache) if has("cache") else NO_CACHE_OPTIONS,
        route=to_route(message.route, catalogue) if has("route") else NO_ROUTE_OPTIONS,
        conversation_id=sized("conversation_id", message.conversation_id, 256),
        attributes=attributes,
        explain=message.explain,
        request_id=sized("request_id", message.request_id, 256),
        role=message.messages[-1].role if message.messages else "user",
        private_to=private_to,
    )


def to_batch(message: router_pb2.DecideBatchRequest) -> Sequence[router_pb2.DecideRequest]:
    """Return the requests of a batch, not yet checked one by one."""
    if not message.requests:
        raise InvalidRequest(("requests", "empty: give at least one request"))
    at_most("requests", message.requests, MAX_BATCH)
    return message.requests


def to_answer_text(answer: str, chunks: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return an answer and its chunks, which must agree; empty ones hold nothing, and any number would fit."""
    whole = "".join(chunks)
    if answer and chunks and whole != answer:
        raise InvalidRequest(("chunks", "together they are not `answer`; give one of the two, or make them equal"))
    return sized("answer", answer or whole, MAX_ANSWER), tuple(chunk for chunk in chunks if chunk)


def to_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return source tags, checked and without repeats."""
    at_most("source_tags", tags, 64)
    for i, tag in enumerate(tags):
        if not tag:
            raise InvalidRequest((f"source_tags[{i}]", "empty"))
        sized(f"source_tags[{i}]", tag, 256)
    return tuple(dict.fromkeys(tags))


def to_ttl(message: router_pb2.ReportRequest | cache_pb2.PutRequest) -> float | None:
    """Return the time to live in seconds, None where the service's setting holds."""
    return to_seconds("ttl", message.ttl) if message.HasField("ttl") else None


def to_put(message: cache_pb2.PutRequest) -> tuple[Request, str, tuple[str, ...]]:
    """Return a request for the prompt of a Put, and the answer with its chunks."""
    text, history = to_prompt(message.prompt, message.messages)
    answer, chunks = to_answer_text(message.answer, message.chunks)
    if blank(answer):
        raise InvalidRequest(("answer", "empty: give the answer to store"))
    sized("content_type", message.content_type, 256)
    sized("model", message.model, 256)
    context = to_context(message.context) if message.HasField("context") else None
    role = message.messages[-1].role if message.messages else "user"
    return Request(scope_of(message.scope), text, history, context, role=role), answer, chunks


def to_put_prompt(message: cache_pb2.PutRequest, prompt: Prompt) -> Prompt:
    """Return the prompt of a Put as it was listed once: with the context's fingerprint, and whether it is hit exactly.

    Args:
        message: the request.
        prompt: made of its texts.
    """
    if message.exact_only and not prompt.exact_only:
        prompt = replace(prompt, exact_only="asked_for")
    if not message.context_fingerprint:
        return prompt
    if message.HasField("context") or len(message.messages) > 1:
        raise InvalidRequest(("context_fingerprint", "stands for the context and earlier turns: give one or the other"))
    try:
        context = bytes.fromhex(message.context_fingerprint)
    except ValueError:
        context = b""
    if len(context) != len(prompt.context):
        raise InvalidRequest(("context_fingerprint", "not one of this service's: take it from a listed answer"))
    return replace(prompt, context=context, key=answer_key(scope_of(message.scope), context, prompt.text))


def to_wordings(message: cache_pb2.PutRequest) -> Sequence[str]:
    """Return the further prompts of a Put, checked."""
    at_most("wordings", message.wordings, 64)
    for i, wording in enumerate(message.wordings):
        if not sized(f"wordings[{i}]", wording, MIB).strip():
            raise InvalidRequest((f"wordings[{i}]", "empty: give a prompt, or leave it out"))
    return message.wordings


def check_report(message: router_pb2.ReportRequest, catalogue: Catalogue, decision: Decision) -> str:
    """Return the id of the reported model, "" where none is needed; raise InvalidRequest where a field is wrong."""
    was_hit = decision.hit is not None
    if message.outcome not in types_pb2.Outcome.values():
        raise InvalidRequest(("outcome", f"{message.outcome} is not an Outcome"))
    if not was_hit and not message.outcome:
        raise InvalidRequest(("outcome", "required: how did the model call end?"))
    if not was_hit and not message.model:
        raise InvalidRequest(("model", "required: which model was called?"))
    if message.HasField("quality"):
        in_range("quality", message.quality, 0, 1)
    if message.HasField("latency"):
        to_seconds("latency", message.latency, zero=True)
    if message.HasField("usage"):
        usage = message.usage
        in_range("usage.input_tokens", usage.input_tokens, 0, MAX_USAGE)
        in_range("usage.output_tokens", usage.output_tokens, 0, MAX_USAGE)
        if usage.HasField("cost_usd"):
            in_range("usage.cost_usd", usage.cost_usd, 0, MAX_COST_USD)
    if "\0" in sized("quality_source", message.quality_source, 256):  # what stands before it is whose source it is
        raise InvalidRequest(("quality_source", "there is a NUL in it: give a name without"))
    sized("finish_reason", message.finish_reason, 256)
    sized("content_type", message.content_type, 256)
    model = _planned_or_known(message.model, catalogue, decision) if message.model else ""
    if (
        message.HasField("answer_wrong")
        and message.answer_wrong
        and not was_hit
        and model not in (decision.reviews or ())
    ):
        raise InvalidRequest(("answer_wrong", "this decision served no cached answer, and none of it was reviewed"))
    return model


def to_given(message: router_pb2.ReviewRequest, catalogue: Catalogue, decision: Decision) -> Given:
    """Return what is to be reviewed, or raise InvalidRequest."""
    if decision.plan is None:
        raise InvalidRequest(("decision_id", "this decision served a cached answer: there is no step to review"))
    if not message.model:
        raise InvalidRequest(("model", "required: which of the plan's models answered?"))
    model = _planned_or_known(message.model, catalogue, decision)
    steps = [step.model for step in decision.plan.steps]
    if model not in steps:
        raise InvalidRequest(("model", f"{model!r} is no step of this plan, which has {', '.join(steps) or 'none'}"))
    has = message.HasField
    logprob = in_range("logprob_mean", message.logprob_mean, -1e6, 0) if has("logprob_mean") else None
    return Given(
        model,
        sized("answer", message.answer, MAX_ANSWER),
        in_range("score", message.score, 0, 1) if has("score") else None,
        logprob,
    )


def _planned_or_known(name: str, catalogue: Catalogue, decision: Decision) -> str:
    """Return the id of a model; one of the plan's stands as it is, as a plan may be older than the catalogue."""
    planned = decision.plan.steps if decision.plan is not None else ()
    if any(step.model == name for step in planned):
        return name
    return next(iter(to_models("model", [name], catalogue)))


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


def to_invalidation(message: cache_pb2.InvalidateRequest, catalogue: Catalogue, now: float) -> Invalidation:
    """Return which answers are meant; `now` in seconds since the epoch."""
    at_most("entry_ids", message.entry_ids, 10_000)
    sized("model", message.model, 256)
    wanted = Invalidation(
        entry_ids=frozenset(message.entry_ids),
        source_tags=frozenset(to_tags(message.source_tags)),
        model=catalogue.resolve(message.model) or message.model,
        before=now - to_seconds("older_than", message.older_than) if message.HasField("older_than") else None,
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
    least = in_range("radius.min_similarity", message.min_similarity, -1, 1)
    if not least:  # what a field that was forgotten says, and half of all answers are nearer than that
        raise InvalidRequest(("radius.min_similarity", "required, and not 0: give the least cosine, for example 0.9"))
    return sized("radius.prompt", message.prompt, MIB), least


def to_ids(field: str, ids: Sequence[str], limit: int) -> list[str]:
    """Return ids without repeats, at least one."""
    if not ids:
        raise InvalidRequest((field, "empty: give at least one"))
    at_most(field, ids, limit)
    return list(dict.fromkeys(ids))


def to_deletion(message: references_pb2.DeleteRequest) -> tuple[list[str], list[str]]:
    """Return the ids and the sources of what to delete."""
    at_most("sources", message.sources, 64)
    for i, source in enumerate(message.sources):
        if not sized(f"sources[{i}]", source, 256):
            raise InvalidRequest((f"sources[{i}]", "empty: give the source of references, or of reports of quality"))
    sources = list(dict.fromkeys(message.sources))
    return [] if sources and not message.ids else to_ids("ids", message.ids, 10_000), sources


def to_references(message: references_pb2.UpsertRequest, catalogue: Catalogue) -> list[Reference]:
    """Return the references of an Upsert, which must name different ids."""
    if not message.references:
        raise InvalidRequest(("references", "empty: give at least one"))
    at_most("references", message.references, 1_000)
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
        text, history = to_prompt(message.prompt, message.messages)
        sized("id", message.id, 256)
        for field, limit in (("category", 256), ("source", 256), ("note", 4_096)):
            sized(field, getattr(message, field), limit)
        if bool(message.best_model) == bool(message.scores):
            raise InvalidRequest(("best_model", "give either best_model or scores"))
        best = to_models("best_model", [message.best_model] if message.best_model else [], catalogue)
        scores = _per_model("scores", message.scores, catalogue, 1.0)
        costs = _per_model("costs", message.costs, catalogue, MAX_COST_USD)
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
        model = next(iter(to_models(field, [name], catalogue)))
        if model in out:
            raise InvalidRequest((f"{field}[{name!r}]", f"{model} is given twice, by id and by alias"))
        out[model] = in_range(f"{field}[{name!r}]", value, 0, high)
    return out
