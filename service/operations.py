"""What each RPC does, one short function each: message in, message out.

Part of the edge (it is the third module that sees messages): converts, checks who may, and calls the domain.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2

from index.catalogue import Catalogue
from index.errors import GenerationError, WaypostError
from index.records import Answer, LiveReference, Reference
from index.store import Kind, Record, RecordKey
from index.text import canonical
from index.vectors import Vectors
from service import puts, replaying, reviews
from service.auth import Principal, writer
from service.cache.radius import within
from service.convert import fields, incoming, learning, outgoing
from service.decide import normalise
from service.errors import InvalidRequest, NotFound, PreconditionFailed, TooLarge, TooLate, retry_delay, to_status
from service.lookup import NO_SEARCH
from service.repeats import Repeat
from service.reports import Report, oversize
from service.requests import Decision, Outcome, Request, account_of, source_of, tokens_of
from service.requests import Record as Came
from service.runtime import Runtime
from service.settings import to_toml

# One batch may not take all of the queue from everyone else.
_BATCH_AT_ONCE = 64
# About what one decision without an embedding takes, on a machine that is busy.
_BATCH_RESERVE_S = 0.0005
# What of a batch's time is kept for putting the response together and for its way: a share, and at most so long.
_BATCH_RETURN, _BATCH_RETURN_S = 0.2, 0.2
_LISTED = 1_000
# A response's thousand parts each take a few bytes more than themselves, or a hundred where they say what is wrong.
_FRAMES = 128 << 10
_WHOLE = "waypost.v1."


class Call(NamedTuple):
    """One call as its operation sees it. Times of `perf_counter`; no deadline is None; `peer` names the connection."""

    runtime: Runtime
    principal: Principal
    started: float
    deadline: float | None
    peer: Callable[[], str] = str


def of(service: str, method: str, kind: type[Message]) -> Callable[[bytes, Call], Awaitable[Message | bytes]]:
    """Return the operation of an RPC: from the bytes of a request of a kind to the response, or its bytes."""
    name = f"{service.removeprefix(_WHOLE)}.{method}"
    if name == "Router.Decide":
        return decide
    operation = _OPERATIONS[name]
    return lambda raw, call: operation(_read(kind, raw), call)


def _read(kind: type[Message], raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        why = "cut off, of another kind, or with a text that is not UTF-8"
        raise InvalidRequest(("request", f"no {kind.DESCRIPTOR.full_name}: {why}")) from None


# ---- Router -------------------------------------------------------------------------------------------------


async def decide(raw: bytes, call: Call) -> Message | bytes:
    """Router.Decide: what was asked in the very same bytes lately is not read again."""
    decider, caller = call.runtime.decider, call.principal.name
    known = decider.repeats.get(caller, raw, _catalogue(call))
    if known is not None:
        request, prompt = known.request, known.prompt
    else:
        request, prompt = _request(_read(router_pb2.DecideRequest, raw), call), None
    decision = await decider.decide(request, call.started, call.deadline, prompt, call.peer)
    hit = decision.hit
    if hit is None or not hit.exact or hit.stale or request.explain:
        response = outgoing.from_decision(decision, explain=request.explain)
        decider.record(decision)
        return response
    if known is None or known.answer is not hit.answer:
        known = Repeat(request, decision.prompt, hit.answer, outgoing.answer_of(decision))
        decider.repeats.keep(caller, raw, known)
    decider.record(decision)
    return known.sent + outgoing.all_but_answer(decision)


async def decide_batch(message: router_pb2.DecideBatchRequest, call: Call) -> Message:
    """Router.DecideBatch."""
    requests = incoming.to_batch(message)
    gate, room = asyncio.Semaphore(_BATCH_AT_ONCE), _room(call)
    ends = _end(call)
    call = call._replace(deadline=_earlier(call.started, ends, len(requests)))

    async def one(request: router_pb2.DecideRequest) -> router_pb2.DecideBatchResult:
        nonlocal room
        async with gate:
            try:
                if ends is not None and perf_counter() >= ends:
                    raise TooLate
                # Nobody waits in a batch: it might be for an answer that only comes after the whole batch.
                one_ = _request(request, call)
                one_ = one_._replace(cache=replace(one_.cache, wait=0.0))
                decision = await call.runtime.decider.decide(one_, call.started, call.deadline, peer=call.peer)
                response = outgoing.from_decision(decision, explain=one_.explain)
                # A thousand of the largest answers are gigabytes: what does not fit is let go at once.
                if (size := response.ByteSize()) > room:
                    call.runtime.decider.flights.failed(decision.id)
                    raise TooLarge(call.runtime.settings.server.max_message_mib)
                room -= size
                call.runtime.decider.record(decision)
                return router_pb2.DecideBatchResult(response=response)
            except WaypostError as error:
                status = to_status(error)
                failure = router_pb2.Failure(code=status.code, message=status.message, retry_after=retry_delay(error))
                return router_pb2.DecideBatchResult(failure=failure)

    return router_pb2.DecideBatchResponse(results=await asyncio.gather(*map(one, requests)))


def _earlier(started: float, ends: float | None, requests: int) -> float | None:
    """Return the deadline for the embeddings of a batch: there must be time left to decide on all without one."""
    return None if ends is None else ends - min(_BATCH_RESERVE_S * requests, (ends - started) / 2)


def _end(call: Call) -> float | None:
    """Return when a batch goes back with what is decided: a late one would be nobody's."""
    if call.deadline is None:
        return None
    return call.deadline - min((call.deadline - call.started) * _BATCH_RETURN, _BATCH_RETURN_S)


async def review(message: router_pb2.ReviewRequest, call: Call) -> Message:
    """Router.Review."""
    decision = await _decision(message.decision_id, call)
    given = incoming.to_given(message, _catalogue(call), decision)
    return outgoing.from_reviewed(await reviews.review(call.runtime.decider, decision, given, call.deadline))


async def report_(message: router_pb2.ReportRequest, call: Call) -> Message:
    """Router.Report."""
    runtime = call.runtime
    decision = await _decision(message.decision_id, call)
    model = incoming.check_report(message, _catalogue(call), decision)
    answer, chunks = incoming.to_answer_text(message.answer, message.chunks)
    what = Report(
        model=model,
        outcome=Outcome(message.outcome) if message.outcome else None,
        answer=answer,
        chunks=chunks,
        finish_reason=message.finish_reason,
        content_type=message.content_type,
        source_tags=incoming.to_tags(message.source_tags),
        ttl=incoming.to_ttl(message),
        answer_wrong=message.answer_wrong,
        cost_usd=message.usage.cost_usd,
        equivalent=message.candidate_equivalent if message.HasField("candidate_equivalent") else None,
    )
    done = await runtime.report(decision, message.fill_token, what)
    if runtime.decider.log.get(decision.id) is None:  # it came from the journal: what is said of it counts once
        runtime.decider.log.add(decision)
    quality = message.quality if message.HasField("quality") else None
    reviews.reported(runtime.decider, decision, model, quality, wrong=what.answer_wrong)
    private_to = _private_to(call, decision.request.scope)
    rating = learning.to_rating(message, what, decision, call.principal, private_to, _catalogue(call))
    runtime.heard(decision, rating)
    first, decision.reported = not decision.reported, True
    if first:
        outcome = what.outcome.name.lower() if what.outcome else "cached"
        wrong = what.answer_wrong and decision.hit is not None
        runtime.decider.metrics.reported(decision.request.scope, outcome, wrong=wrong)
    return router_pb2.ReportResponse(
        stored=bool(done.entry_id),
        entry_id=done.entry_id,
        not_stored_because=done.not_stored_because,
        removed=done.removed,
    )


# ---- Cache --------------------------------------------------------------------------------------------------


async def put(message: cache_pb2.PutRequest, call: Call) -> Message:
    """Cache.Put."""
    request, answer, chunks = incoming.to_put(message)
    call.principal.check_scope(request.scope)
    request = request._replace(private_to=_private_to(call, request.scope))
    settings = call.runtime.settings.cache.of(request.scope)
    if not settings.enabled:
        raise PreconditionFailed("CACHE_DISABLED", "cache.enabled", "the cache is switched off: set cache.enabled")
    if large := oversize(answer, settings):
        raise InvalidRequest(("answer", large))
    prompt = incoming.to_put_prompt(message, normalise(request))
    model = _catalogue(call).resolve(message.model)
    cost = _catalogue(call).get(model).cost_usd(prompt.input_tokens, tokens_of(len(answer))) if model else 0.0
    what = Report(
        model or message.model,
        Outcome.OK,
        answer,
        chunks,
        "stop",
        message.content_type,
        incoming.to_tags(message.source_tags),
        incoming.to_ttl(message),
        answer_wrong=False,
        cost_usd=cost,
    )
    stored, replaced = await puts.put(call.runtime, request, prompt, what, incoming.to_wordings(message))
    return cache_pb2.PutResponse(entry_id=stored.id, replaced=replaced)


async def invalidate(message: cache_pb2.InvalidateRequest, call: Call) -> Message:
    """Cache.Invalidate."""
    scope = fields.scope_of(message.scope)
    call.principal.check_scope(scope)
    answers = call.runtime.decider.answers
    wanted = incoming.to_invalidation(message, _catalogue(call), answers.clock.now())
    near = None
    if wanted.radius is not None:
        meant = partial(wanted.matches, near=None)
        near = await within(scope, wanted.radius, meant, answers, call.runtime.decider.batcher)
    matching = (entry.answer_id for entry in answers.view.entries(scope) if wanted.matches(entry, near))
    there = (answers.view.by_id(scope, entry_id) for entry_id in dict.fromkeys(matching))
    found = [entry for entry in there if entry is not None]
    if not message.dry_run:
        await answers.remove_entries(found)
    # All that is meant goes; what others keep for themselves is not told.
    told = [entry.id for entry in found if _may_see(call, scope, entry.private_to)]
    return cache_pb2.InvalidateResponse(removed=len(told), entry_ids=told[:_LISTED])


async def list_answers(message: cache_pb2.ListAnswersRequest, call: Call) -> Message:
    """Cache.ListAnswers."""
    page, token = await _page(message, call, Kind.ANSWER)
    return cache_pb2.ListAnswersResponse(answers=page, next_page_token=token)


# ---- References ---------------------------------------------------------------------------------------------


async def upsert(message: references_pb2.UpsertRequest, call: Call) -> Message:
    """References.Upsert."""
    scope = fields.scope_of(message.scope)
    call.principal.check_scope(scope)
    references = incoming.to_references(message, _catalogue(call))
    decider, digest = call.runtime.decider, call.runtime.encoder.digest
    gate = asyncio.Semaphore(_BATCH_AT_ONCE)

    async def embed(reference: Reference) -> LiveReference:
        async with gate:
            embedded = await decider.batcher.submit(canonical(reference.prompt), NO_SEARCH)
        return LiveReference(scope, reference, digest, _raw(embedded.vector))

    live = await asyncio.gather(*map(embed, references))
    replaced = sum(decider.answers.view.has_reference(scope, r.id) for r in references)
    await decider.answers.put_references(live)
    return references_pb2.UpsertResponse(added=len(live) - replaced, replaced=replaced)


async def delete(message: references_pb2.DeleteRequest, call: Call) -> Message:
    """References.Delete."""
    scope = fields.scope_of(message.scope)
    call.principal.check_scope(scope)
    ids, sources = incoming.to_deletion(message)
    answers = call.runtime.decider.answers
    wanted = dict.fromkeys([*ids, *answers.view.references_of(scope, sources)])
    keys = [RecordKey(Kind.REFERENCE, scope, i) for i in wanted if answers.view.has_reference(scope, i)]
    await answers.remove(keys)
    named = [source_of(source, one) for source in sources for one in _owners(call, scope)]
    reports = sum([await call.runtime.forget(scope, source) for source in named])
    return references_pb2.DeleteResponse(deleted=len(keys), reports=reports)


async def list_references(message: references_pb2.ListRequest, call: Call) -> Message:
    """References.List."""
    page, token = await _page(message, call, Kind.REFERENCE)
    return references_pb2.ListResponse(references=page, next_page_token=token)


# ---- Admin --------------------------------------------------------------------------------------------------


async def get_info(message: admin_pb2.GetInfoRequest, call: Call) -> Message:
    """Admin.GetInfo."""
    del message
    call.principal.check_admin()
    runtime = call.runtime
    return admin_pb2.GetInfoResponse(
        version=waypost_version(),
        generation=runtime.decider.generation.id,
        encoder=admin_pb2.EncoderInfo(
            name=runtime.settings.encoder.path.name,
            digest=runtime.encoder.digest,
            dimensions=runtime.encoder.dimensions,
            max_tokens=runtime.encoder.max_tokens,
        ),
        models=map(outgoing.from_model, _catalogue(call).models),
        started_at=outgoing.timestamp(runtime.started_at),
        settings=to_toml(runtime.settings),
    )


async def get_stats(message: admin_pb2.GetStatsRequest, call: Call) -> Message:
    """Admin.GetStats."""
    decider = call.runtime.decider
    view, metrics = decider.answers.view, decider.metrics
    if message.scope:
        scope = fields.scope_of(message.scope)
        if not call.principal.admin:
            call.principal.check_scope(scope)
        counts, (answers, live) = metrics.scope(scope), view.count(scope)
    else:
        call.principal.check_admin()
        counts, answers, live = metrics.total, view.answers, view.live_references
    response = admin_pb2.GetStatsResponse(
        decisions=counts.decisions,
        exact_hits=counts.exact_hits,
        semantic_hits=counts.semantic_hits,
        degraded=counts.degraded,
        plans_by_model=counts.plans,
        reports_by_outcome=counts.reports,
        answers=answers,
        live_references=live,
        generation_references=len(decider.generation.references),
        answers_reported_wrong=counts.answers_reported_wrong,
        reviews=counts.reviews,
        reviews_escalated=counts.reviews_escalated,
        accepts_judged=counts.accepts_judged,
        false_accepts=counts.false_accepts,
        answer_bytes=view.size_of(scope) if message.scope else view.size,
    )
    if decider.accounts is not None:
        learning.fill_stats(response, decider.accounts, fields.scope_of(message.scope) if message.scope else "")
    if message.scope:
        for owner in _owners(call, scope):
            response.budgets.extend(outgoing.from_ledgers(decider.keeper.ledgers(account_of(scope, owner))))
    else:
        response.memory_per_answer_bytes, response.evicted = view.memory_per_answer(), decider.answers.capacity.evicted
        response.queue_length, response.refused = len(decider.batcher), decider.batcher.refused
    return response


async def get_generations(message: admin_pb2.ListGenerationsRequest, call: Call) -> Message:
    """Admin.ListGenerations."""
    del message
    call.principal.check_admin()
    runtime = call.runtime
    response = admin_pb2.ListGenerationsResponse()
    for folder, manifest in await runtime.generations():
        if isinstance(manifest, GenerationError):
            response.generations.add(id=folder.name, problem=str(manifest))
            continue
        foreign = manifest.encoder_digest != runtime.encoder.digest
        response.generations.add(
            id=manifest.id,
            created_at=outgoing.timestamp(manifest.created_at),
            references=manifest.references,
            encoder_digest=manifest.encoder_digest,
            active=manifest.id == runtime.decider.generation.id,
            problem="built with another encoder" if foreign else "",
        )
    return response


async def activate_generation(message: admin_pb2.ActivateGenerationRequest, call: Call) -> Message:
    """Admin.ActivateGeneration."""
    call.principal.check_admin()
    if not message.generation:
        raise InvalidRequest(("generation", "required: take an id from ListGenerations"))
    now, before = await call.runtime.activate(message.generation)
    return admin_pb2.ActivateGenerationResponse(generation=now, previous=before)


async def explain(message: admin_pb2.ExplainRequest, call: Call) -> Message:
    """Admin.Explain."""
    return outgoing.from_explained(await _decision(message.decision_id, call, looking=True))


async def replay(message: admin_pb2.ReplayRequest, call: Call) -> Message:
    """Admin.Replay."""
    call.principal.check_admin()
    generation, found = await replaying.run(call.runtime, learning.to_wanted(message))
    return learning.from_replayed(generation, found)


def waypost_version() -> str:
    """Return the installed version."""
    try:
        return version("waypost")
    except PackageNotFoundError:
        return "unknown"


def _request(message: router_pb2.DecideRequest, call: Call) -> Request:
    """Return a request that this caller may make."""
    private_to = _private_to(call, fields.scope_of(message.scope))
    request = incoming.to_request(message, _catalogue(call), private_to)
    call.principal.check_scope(request.scope)
    return request


def _private_to(call: Call, scope: str) -> str:
    """Return whom alone an answer may be served to that this caller stores, "" for everyone in the scope."""
    settings = call.runtime.settings
    return writer(settings.auth, call.principal, scope) if settings.cache.of(scope).corroborate else ""


def _owners(call: Call, scope: str) -> list[str]:
    """Return whose accounts and sources a caller may look after: its own, an administrator everyone's."""
    others = call.runtime.settings.auth.tokens if call.principal.admin else ()
    return [_private_to(call, scope), *others]


def _may_see(call: Call, scope: str, private_to: str) -> bool:
    """Return whether a caller may know of an answer that is private to a principal, or ("") everyone's."""
    return call.principal.admin or private_to in ("", _private_to(call, scope))


def _catalogue(call: Call) -> Catalogue:
    return call.runtime.decider.generation.catalogue


async def _decision(decision_id: str, call: Call, *, looking: bool = False) -> Decision:
    """Return a remembered or recorded decision of this caller's scopes; another scope's is as unknown as none.

    Who is only `looking` may be an administrator as well.
    """
    if not decision_id:
        raise InvalidRequest(("decision_id", "required: it is in the response of Decide"))
    decision = call.runtime.decider.log.get(decision_id)
    if decision is None and (decision := await call.runtime.recorded(decision_id)) is not None:
        # The journal does not say who asked; whoever speaks of it now speaks for itself alone.
        whose = _private_to(call, decision.request.scope)
        decision.request = decision.request._replace(private_to=whose)
    scopes = call.principal.scopes
    everywhere = "*" in scopes or (looking and call.principal.admin)
    if decision is None or not (everywhere or decision.request.scope in scopes):
        keep = call.runtime.settings.decisions.keep
        raise NotFound(
            f"decision {decision_id[:64]!r} is not known: the latest decisions.keep ({keep:,}) are remembered until a "
            "restart, and plans and semantic hits are recorded for journal.keep_days"
        )
    return decision


async def _page(
    message: cache_pb2.ListAnswersRequest | references_pb2.ListRequest, call: Call, kind: Kind
) -> tuple[list[Any], str]:
    """Return one page of a scope's records of a kind, as messages, and the token of the next."""
    scope = fields.scope_of(message.scope)
    call.principal.check_scope(scope)
    after, limit = incoming.to_page(message)
    answers, account = call.runtime.decider.answers, account_of(scope, _private_to(call, scope))

    def came(answer: Answer) -> Came:
        right, wrong = call.runtime.decider.keeper.verdicts_on(account, answer.meaning)
        return Came(answers.capacity.uses(answer), answers.wordings(answer), right, wrong)

    def may_see(record: Record) -> bool:
        return not isinstance(record, Answer) or _may_see(call, scope, record.private_to)

    if isinstance(message, cache_pb2.ListAnswersRequest) and message.entry_ids:
        changes = answers.these(scope, incoming.to_ids("entry_ids", message.entry_ids, fields.MAX_PAGE), after)
    else:
        changes = answers.page(kind, scope, after)
    shown = ((c.seq, c.record) for c in changes if c.record and may_see(c.record))
    rows = ((seq, outgoing.from_record(record, came)) for seq, record in shown)
    return await asyncio.to_thread(outgoing.page_of, rows, limit, _room(call))


def _room(call: Call) -> int:
    """Return how many bytes the parts of a response may have together, without what frames them."""
    return (call.runtime.settings.server.max_message_mib << 20) - _FRAMES


def _raw(vector: Vectors) -> bytes:
    return vector.astype("<f4").tobytes()


# All but Router.Decide, which reads its requests itself.
_OPERATIONS: dict[str, Callable[[Any, Call], Awaitable[Message]]] = {
    "Router.DecideBatch": decide_batch,
    "Router.Review": review,
    "Router.Report": report_,
    "Cache.Put": put,
    "Cache.Invalidate": invalidate,
    "Cache.ListAnswers": list_answers,
    "References.Upsert": upsert,
    "References.Delete": delete,
    "References.List": list_references,
    "Admin.GetInfo": get_info,
    "Admin.GetStats": get_stats,
    "Admin.ListGenerations": get_generations,
    "Admin.ActivateGeneration": activate_generation,
    "Admin.Explain": explain,
    "Admin.Replay": replay,
}
