"""Responses, from the service's own values to messages."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from index.records import Answer, LiveReference, Model, Reference
from index.verifier import FEATURES
from service.cache.budget import Ledger
from service.cache.learner import FEATURES as LEARNED
from service.convert.fields import MIB
from service.requests import (
    STAGES,
    Decision,
    Estimate,
    Judged,
    Record,
    Reviewed,
    Timings,
    Trial,
    stage_times,
)

_LATEST: Final = 253_402_300_799  # what a Timestamp may hold: the end of the year 9999
_SHOWN: Final = 500


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
    response = _without_outcome(decision)
    if decision.hit is not None:
        _fill_answer(response.answer, decision)
    else:
        _fill_plan(response.plan, decision)
        response.plan.fill_token = decision.fill_token
    if explain:
        _fill_explanation(response.explanation, decision)
    return response


def answer_of(decision: Decision) -> bytes:
    """Return the part of an exact hit's response that is its answer: it goes before `all_but_answer`.

    Messages that are written one after the other are read as one that has the fields of both.
    """
    response = router_pb2.DecideResponse()
    _fill_answer(response.answer, decision)
    return response.SerializeToString()


def all_but_answer(decision: Decision) -> bytes:
    """Return the part of an exact hit's response that tells of this one decision."""
    return _without_outcome(decision).SerializeToString()


def _without_outcome(decision: Decision) -> router_pb2.DecideResponse:
    response = router_pb2.DecideResponse(
        decision_id=decision.id,
        generation=decision.generation,
        degraded=types_pb2.DEGRADED_NO_EMBEDDING if decision.degraded else types_pb2.DEGRADED_NONE,
    )
    _fill_timings(response.timings, decision.timings)
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


def from_reviewed(reviewed: Reviewed) -> router_pb2.ReviewResponse:
    """Return the response for a review."""
    return router_pb2.ReviewResponse(
        verdict=types_pb2.VERDICT_ACCEPT if reviewed.accepted else types_pb2.VERDICT_ESCALATE,
        next_model=reviewed.next_model,
        p_acceptable=reviewed.p_acceptable,
    )


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
    if hit.p_correct is not None:
        out.p_correct = hit.p_correct
    out.stored_at.CopyFrom(timestamp(answer.stored_at))
    out.matched_prompt = hit.matched
    out.stale = hit.stale


def _fill_plan(out: types_pb2.Plan, decision: Decision) -> None:
    plan = decision.plan
    assert plan is not None  # noqa: S101 - the caller looked
    for i, step in enumerate(plan.steps):
        message = out.steps.add(model=step.model, quality=step.quality, cost_usd=step.cost_usd)
        if step.latency_s is not None:
            message.latency.CopyFrom(duration(step.latency_s))
        if i < len(plan.accept_at):
            message.accept_at = plan.accept_at[i]
        if 0 < i < plan.together:
            message.with_previous = True
    out.shape = plan.shape.value  # type: ignore[assignment]
    out.combine = plan.combine.value  # type: ignore[assignment]
    out.confidence = plan.confidence
    out.reason = plan.reason.value  # type: ignore[assignment]
    if plan.infeasible:
        out.infeasible.extend(plan.infeasible)
    if decision.candidate is not None:
        out.candidate.entry_id = decision.candidate.entry.answer_id
        out.candidate.similarity = decision.candidate.similarity
        out.candidate.refused_by = decision.candidate.refused_by
        if decision.candidate.probability is not None:
            out.candidate.p_correct = decision.candidate.probability


def _fill_timings(out: types_pb2.Timings, timings: Timings) -> None:
    # Every stage is far below a second: only the nanos are set, which is half the cost of a Duration.
    out.total.seconds, out.total.nanos = int(timings.total), int(timings.total % 1 * 1e9)
    for stage, seconds in zip(STAGES, stage_times(timings), strict=True):
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
    pinned = (
        "route.pin_model" if decision.plan is not None and (decision.trace.asked or decision.request).route.pin else ""
    )
    out.rule = ", ".join(filter(None, (decision.trace.rule, pinned)))
    out.experiment_arm = decision.trace.arm
    for judged in decision.judged:
        out.notes.add(stage="verify", note=_verdict(judged))
    if decision.trial is not None:
        out.notes.add(stage="verify", note=_trial(decision.trial))
    for stage, note in decision.notes:
        out.notes.add(stage=stage, note=note)


def _verdict(judged: Judged) -> str:
    """Return one line: which answer, why or why not, and every part of the verdict that is not 0."""
    entry = judged.entry
    said = f"refused: {judged.refused_by}" if judged.refused_by else "may be served"
    parts = [f"cosine {judged.similarity:.4f}", f"margin {judged.margin:.4f}", f"agreement {judged.agreement:.3f}"]
    if judged.probability is not None:
        parts.insert(0, f"probability {judged.probability:.4f}")
    # A cosine is there already, and its hinges are made from it.
    parts += [
        f"{name} {value:.3f}"
        for name, value in zip(FEATURES, judged.features, strict=False)
        if value and not name.startswith("cosine")
    ]
    return f"{entry.answer_id} {entry.prompt[:_SHOWN]!r}: {said} ({', '.join(parts)})"


def _trial(trial: Trial) -> str:
    """Return one line: how likely the likeliest answer was wrong, by what, and what the error budget made of that."""
    bears = f"the error budget of {trial.budget:g} bore up to {trial.bearable:.4f}"
    if trial.audit:
        what = f"could be served and was sent to a model to check (chance {trial.chance:.3f})"
    elif trial.chance == 1.0:
        what = "was too much"
    else:
        what = f"was served (chance of a check {trial.chance:.3f})"
    parts = [f"{name} {value:.3f}" for name, value in zip(LEARNED, trial.evidence, strict=True) if name != "bias"]
    return f"{trial.entry.answer_id} wrong with probability {trial.error:.4f} ({', '.join(parts)}): {bears}; it {what}"


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


def from_record(record: Answer | LiveReference, came: Callable[[Answer], Record]) -> ProtoMessage:
    """Return a stored record as its list shows it; `came` tells what came of an answer."""
    return from_answer(record, came(record)) if isinstance(record, Answer) else from_reference(record.reference)


def from_answer(answer: Answer, came: Record) -> cache_pb2.StoredAnswer:
    """Return an answer as the list shows it, with what came of it."""
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
        key=answer.key.hex(),
        size=answer.size,
        cost_usd=answer.cost_usd,
        uses=came.uses,
        private_to=answer.private_to,
        exact_only=answer.truncated or not answer.vector,
        chunk_bytes=[len(chunk.encode()) for chunk in answer.chunks],
        wordings=came.wordings,
        verdicts_right=came.right,
        verdicts_wrong=came.wrong,
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


def from_ledgers(ledgers: Iterable[Ledger]) -> Iterator[admin_pb2.BudgetStats]:
    """Yield the accounts of error budgets, the smallest first."""
    for ledger in sorted(ledgers, key=lambda one: one.budget):
        window = ledger.window
        yield admin_pb2.BudgetStats(
            error_budget=ledger.budget,
            requests=window.requests,
            served=window.served,
            audits=window.audits,
            verdicts=window.verdicts,
            wrong=window.wrong,
            error_bound=min(ledger.bound / max(window.requests, 1), 1.0),
            threshold=ledger.threshold,
            complaints=window.complaints,
        )


def page_of(messages: Iterable[tuple[int, ProtoMessage]], limit: int, room: int) -> tuple[list[Any], str]:
    """Return the messages of a page of at most 8 MiB, and the token of the next ("" where this is the last).

    Args:
        messages: (sequence number, message) of all there are; no more are taken than the page shows, and one.
        limit: the most messages on a page.
        room: the most bytes on a page, where that is less than 8 MiB; one message is taken whatever its size.
    """
    room = min(room, 8 * MIB)
    page: list[Any] = []
    size, last = 0, 0
    for seq, message in messages:
        size += message.ByteSize()
        if page and (len(page) == limit or size > room):
            return page, str(last)
        page.append(message)
        last = seq
    return page, ""
