"""What an operator asks of a running service, for the command line: one decision, what it did, its generations."""

from collections.abc import Iterator, Mapping

from waypost.v1 import admin_pb2, admin_pb2_grpc

from service.client import connected, metadata, to_text


def explain(address: str, decision: str, *, token: str, timeout: float) -> admin_pb2.ExplainResponse:
    """Return a decision in full, or raise CallError; address, token and timeout as in `client.decide`."""
    with connected(address) as channel:
        return admin_pb2_grpc.AdminStub(channel).Explain(
            admin_pb2.ExplainRequest(decision_id=decision), timeout=timeout, metadata=metadata(token)
        )


def stats(address: str, scope: str, *, token: str, timeout: float) -> admin_pb2.GetStatsResponse:
    """Return what was done in a scope, "" for all; else as `explain`."""
    with connected(address) as channel:
        return admin_pb2_grpc.AdminStub(channel).GetStats(
            admin_pb2.GetStatsRequest(scope=scope), timeout=timeout, metadata=metadata(token)
        )


def generations(address: str, *, token: str, timeout: float) -> admin_pb2.ListGenerationsResponse:
    """Return the generations on disk; else as `explain`."""
    with connected(address) as channel:
        return admin_pb2_grpc.AdminStub(channel).ListGenerations(
            admin_pb2.ListGenerationsRequest(), timeout=timeout, metadata=metadata(token)
        )


def activate(address: str, generation: str, *, token: str, timeout: float) -> admin_pb2.ActivateGenerationResponse:
    """Have a generation served; else as `explain`."""
    request = admin_pb2.ActivateGenerationRequest(generation=generation)
    with connected(address) as channel:
        return admin_pb2_grpc.AdminStub(channel).ActivateGeneration(request, timeout=timeout, metadata=metadata(token))


def explained_text(found: admin_pb2.ExplainResponse) -> str:
    """Return a decision with what it was made for, for a person to read."""
    when = found.decided_at.ToDatetime().isoformat(" ", "seconds")
    about = [f"decided    {when} UTC in scope {found.scope}"]
    about += [f"request    {found.request_id}"] if found.request_id else []
    about += [f"prompt     {' '.join(found.prompt.split())[:500]}"] if found.prompt else []
    return "\n".join([*about, to_text(found)])


def stats_text(found: admin_pb2.GetStatsResponse) -> str:
    """Return what a service did since its start, for a person to read."""
    reports = [f"{count:,} {outcome}" for outcome, count in sorted(found.reports_by_outcome.items())]
    pairs = [
        ("decisions", f"{found.decisions:,}"),
        ("hits", f"{found.exact_hits:,} exact, {found.semantic_hits:,} semantic"),
        ("degraded", f"{found.degraded:,}"),
        ("spent", _spent(found.cost_usd, found.baseline_cost_usd, found.baseline_model)),
        ("reports", ", ".join(reports) or "none"),
        ("escalated", f"{found.escalations:,} plans, {found.reviews_escalated:,} of {found.reviews:,} reviews"),
        ("accepted", f"{found.false_accepts:,} of {found.accepts_judged:,} judged answers were wrong"),
        ("answers", f"{found.answers:,}"),
        ("references", f"{found.generation_references:,} built, {found.live_references:,} live"),
    ]
    lines = [f"{name:10} {value}" for name, value in pairs]
    for one in found.budgets:
        served = f"{one.served:,} served and {one.audits:,} audited of {one.requests:,}"
        lines.append(f"budget     {one.error_budget:g}: {served}, at most {one.error_bound:.2%} wrong")
    lines += ["", *_models(found.models)] if found.models else []
    for name, arm in sorted(found.arms.items()):
        spent = _spent(arm.cost_usd, arm.baseline_cost_usd, found.baseline_model)
        lines += ["", f"arm        {name}: {arm.decisions:,} decisions, {arm.hits:,} hits, {spent}"]
        lines += _models(arm.models)
    return "\n".join(lines)


def _spent(cost: float, baseline: float, model: str) -> str:
    saved = 1 - cost / baseline if baseline > 0 else 0.0
    share = f", {abs(saved):.1%} {'saved' if saved >= 0 else 'more'}" if baseline > 0 else ""
    return f"${cost:.4f}; always {model} ${baseline:.4f}{share}"


def _models(models: Mapping[str, admin_pb2.ModelStats]) -> Iterator[str]:
    """Yield a table of models, those that were planned most first."""
    heads = ("plans", "share", "reports", "failed", "quality", "seconds", "USD")
    wide = max(len("model"), *map(len, models)) if models else 0
    yield f"{'model':{wide}} {' '.join(f'{head:>9}' for head in heads)}"
    for name, one in sorted(models.items(), key=lambda pair: (-pair[1].plans, pair[0])):
        quality = f"{one.quality:.3f}" if one.HasField("quality") else ""
        seconds = f"{one.latency.ToNanoseconds() / 1e9:.2f}" if one.HasField("latency") else ""
        cells = (f"{one.plans:,}", f"{one.share:.1%}", f"{one.reports:,}", f"{one.failures:,}", quality, seconds)
        yield f"{name:{wide}} {' '.join(f'{cell:>9}' for cell in (*cells, f'{one.reported_cost_usd:.4f}'))}"


def generations_text(found: admin_pb2.ListGenerationsResponse) -> str:
    """Return the generations on disk for a person to read, newest first."""
    return "\n".join(
        f"{one.id}  {_built(one)}{'  in use' * one.active}{f'  cannot be used: {one.problem}' if one.problem else ''}"
        for one in found.generations
    )


def _built(one: admin_pb2.Generation) -> str:
    when = one.created_at.ToDatetime().isoformat(" ", "seconds") if one.HasField("created_at") else "?"
    return f"{when} UTC  {one.references:>9,} references"
