"""Reports as what they say of a model, replays, and what was spent: from messages and to them."""

import math

from waypost.v1 import admin_pb2, router_pb2

from index.catalogue import Catalogue
from service.auth import Principal
from service.convert.fields import in_range, scope_of, sized, to_seconds
from service.convert.outgoing import duration
from service.learning.journal import Rating
from service.learning.replay import Replayed
from service.replaying import Wanted
from service.reports import Report
from service.requests import Decision, source_of
from service.spending import Account, Accounts, ModelCounts

_MAX_REPLAYED = 1_000_000
_MOVES = 100


def to_rating(
    message: router_pb2.ReportRequest,
    what: Report,
    decision: Decision,
    principal: Principal,
    private_to: str,
    catalogue: Catalogue,
) -> Rating:
    """Return what a report says of a model's answer; its numbers were checked by `check_report`.

    Args:
        message: the report.
        what: the same, as far as it is about the answer.
        decision: what it is about.
        principal: who reports.
        private_to: the same, where principals share the scope and do not trust each other.
        catalogue: prices the tokens of a report that names no cost.
    """
    has, usage = message.HasField, message.usage
    tokens = has("usage") and (usage.input_tokens or usage.output_tokens)
    cost = usage.cost_usd if usage.HasField("cost_usd") else None
    if cost is None and tokens and what.model in catalogue:
        cost = catalogue.get(what.model).cost_usd(usage.input_tokens, usage.output_tokens)
    expected = next((e.quality for e in decision.expected if e.model == what.model), None)
    return Rating(
        model=what.model,
        outcome=what.outcome,
        quality=message.quality if has("quality") else None,
        source=source_of(message.quality_source or principal.name, private_to),
        cost_usd=cost,
        latency_s=to_seconds("latency", message.latency, zero=True) if has("latency") else None,
        input_tokens=usage.input_tokens if tokens else None,
        output_tokens=usage.output_tokens if tokens else None,
        wrong=message.answer_wrong,
        expected=expected,
    )


def to_wanted(message: admin_pb2.ReplayRequest) -> Wanted:
    """Return what to replay."""
    return Wanted(
        generation=sized("generation", message.generation, 256),
        settings=sized("settings", message.settings, 1 << 16),
        scope=scope_of(message.scope) if message.scope else "",
        period_s=to_seconds("period", message.period) if message.HasField("period") else None,
        limit=int(in_range("limit", message.limit, 0, _MAX_REPLAYED)) or 10_000,
    )


def from_replayed(generation: str, found: Replayed) -> admin_pb2.ReplayResponse:
    """Return what would move."""
    response = admin_pb2.ReplayResponse(
        replayed=found.replayed,
        changed=found.changed,
        recorded=found.recorded,
        compared=found.compared,
        cost_before_usd=found.cost_before,
        cost_after_usd=found.cost_after,
        cost_change_usd=found.cost_after - found.cost_before,
        quality_change=found.quality_after - found.quality_before,
        quality_before=found.quality_before / max(found.compared, 1),
        quality_after=found.quality_after / max(found.compared, 1),
        models_before=found.shares_before,
        models_after=found.shares_after,
        generation=generation,
    )
    for (old, new), move in sorted(found.moves.items(), key=lambda one: -one[1].decisions)[:_MOVES]:
        response.moves.add(
            from_model=old,
            to_model=new,
            decisions=move.decisions,
            cost_change_usd=move.cost_usd,
            quality_change=move.quality,
        )
    for decision, old, new in found.examples:
        response.examples.add(decision_id=decision, from_model=old, to_model=new)
    return response


def fill_stats(response: admin_pb2.GetStatsResponse, accounts: Accounts, scope: str) -> None:
    """Add what was spent in a scope, or in all of them ("")."""
    account = accounts.scope(scope) if scope else accounts.total
    response.cost_usd, response.baseline_cost_usd = account.cost_usd, account.baseline_usd
    response.baseline_model = accounts.baseline
    response.escalations = account.escalations
    response.reported_cost_usd = sum(counts.cost_usd for counts in account.models.values())
    for name, counts in account.models.items():
        _fill_model(response.models[name], counts, account)
    for arm, one in accounts.arms(scope):
        out = response.arms[arm]
        out.decisions, out.hits, out.escalations = one.decisions, one.hits, one.escalations
        out.cost_usd, out.baseline_cost_usd = one.cost_usd, one.baseline_usd
        for name, counts in one.models.items():
            _fill_model(out.models[name], counts, one)


def _fill_model(out: admin_pb2.ModelStats, counts: ModelCounts, account: Account) -> None:
    plans = sum(one.plans for one in account.models.values())
    out.plans, out.reports, out.failures, out.rated = counts.plans, counts.reports, counts.failures, counts.rated
    out.share = counts.plans / plans if plans else 0.0
    out.reported_cost_usd = counts.cost_usd
    if counts.rated:
        out.quality = counts.quality / counts.rated
    if counts.timed and math.isfinite(counts.latency_s):
        out.latency.CopyFrom(duration(counts.latency_s / counts.timed))
