"""A small client for the command line: one call, one message, in text or JSON."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from waypost.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

from index.errors import WaypostError

_REMEDIES: Final = {
    grpc.StatusCode.UNAVAILABLE: "; is the service running there? start it with `waypost serve`",
    grpc.StatusCode.UNAUTHENTICATED: "; give a token that may do this (WAYPOST_TOKEN)",
    grpc.StatusCode.PERMISSION_DENIED: "; give a token that may do this (WAYPOST_TOKEN)",
}
NO_PROXY: Final = (("grpc.enable_http_proxy", 0),)
"""For every channel: a sidecar is on the same host or in the same pod, where no proxy (`http_proxy`) would find it."""
_NEIGHBOURS: Final = 10
_NO_MODEL: Final = "(no model)"


class CallError(WaypostError):
    """The service could not be reached, or refused."""


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return what goes with every call; raises CallError where the token is none that can be sent."""
    if not token:
        return ()
    if not (token.isascii() and token.isprintable()):
        raise CallError("--token: only printable ASCII can be sent; see WAYPOST_TOKEN, too")
    return (("authorization", f"Bearer {token}"),)


def failure(address: str, error: grpc.RpcError) -> CallError:
    """Return what a failed call says, and what to do about it."""
    code = error.code()
    return CallError(f"{address}: {code.name}: {error.details()}{_REMEDIES.get(code, '')}")


@contextmanager
def connected(address: str) -> Iterator[grpc.Channel]:
    """Yield a channel; raise CallError where a call over it fails."""
    with grpc.insecure_channel(address, options=NO_PROXY) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise failure(address, error) from error


def decide(
    address: str, prompt: str, *, scope: str, explain: bool, token: str, timeout: float
) -> router_pb2.DecideResponse:
    """Return the decision on a prompt, or raise CallError.

    Args:
        address: host:port or unix:PATH.
        prompt: what to decide on.
        scope: tenant or application, "" for the default one.
        explain: also return why.
        token: bearer token, "" for none.
        timeout: seconds.
    """
    request = router_pb2.DecideRequest(scope=scope, prompt=prompt, explain=explain)
    with connected(address) as channel:
        return router_pb2_grpc.RouterStub(channel).Decide(request, timeout=timeout, metadata=metadata(token))


def replay(address: str, wanted: admin_pb2.ReplayRequest, *, token: str, timeout: float) -> admin_pb2.ReplayResponse:
    """Return what a service says would move, or raise CallError; arguments as in `decide`."""
    with connected(address) as channel:
        return admin_pb2_grpc.AdminStub(channel).Replay(wanted, timeout=timeout, metadata=metadata(token))


def to_json(response: Message) -> str:
    """Return a response as JSON with the contract's field names."""
    return MessageToJson(response, preserving_proto_field_name=True, ensure_ascii=False)


def to_text(response: router_pb2.DecideResponse | admin_pb2.ExplainResponse) -> str:
    """Return a decision for a person to read, whether it was made now or is looked back on."""
    lines = [f"decision   {response.decision_id}"]
    if response.WhichOneof("outcome") == "answer":
        answer = response.answer
        kind = types_pb2.Match.Name(answer.match).removeprefix("MATCH_").lower()
        by = f"{answer.model or 'unknown'}{', lapsed and fetched anew' * answer.stale}"
        lines += [
            f"cached     {kind} hit, cosine {answer.similarity:.3f}{_sure(answer)}, answered by {by}",
            f"asked as   {answer.matched_prompt[:200]}",
            "",
            answer.content,
        ]
    else:
        plan = response.plan
        reason = types_pb2.Reason.Name(plan.reason).removeprefix("REASON_").lower()
        wide = _width(step.model for step in plan.steps)
        for i, step in enumerate(plan.steps):
            label = "call" if i == 0 else "with it" if step.with_previous else "or then"
            stop = f"   enough from a score of {step.accept_at:.2f}" if step.HasField("accept_at") else ""
            lines.append(f"{label:10} {step.model:{wide}} quality {step.quality:.2f}   ${step.cost_usd:.6f}{stop}")
        if plan.shape > types_pb2.PLAN_SHAPE_SINGLE:
            lines.append(f"shape      {types_pb2.PlanShape.Name(plan.shape).removeprefix('PLAN_SHAPE_').lower()}")
        lines.append(f"because    {reason}, confidence {plan.confidence:.2f}")
        lines += [f"no model   {line}" for line in plan.infeasible]
        if plan.HasField("candidate"):
            near = plan.candidate
            lines.append(
                f"near       a cached answer at cosine {near.similarity:.3f}{_sure(near)}, refused: {near.refused_by}"
            )
    if response.degraded == types_pb2.DEGRADED_NO_EMBEDDING:
        lines.append("degraded   no embedding in time")
    lines += _explained(response.explanation)
    total = response.timings.total
    lines.append(f"took       {total.seconds * 1e3 + total.nanos / 1e6:.2f} ms, generation {response.generation}")
    return "\n".join(lines)


def _explained(explanation: types_pb2.Explanation) -> list[str]:
    lines = [f"rule       {explanation.rule}"] if explanation.rule else []
    lines += [f"arm        {explanation.experiment_arm}"] if explanation.experiment_arm else []
    lines += [f"{note.stage:10} {' '.join(note.note.split())}" for note in explanation.notes]
    lines += [""] if explanation.neighbours or explanation.estimates else []
    wide = _width(one.model for one in explanation.estimates)
    lines += [
        f"expects    {one.model:{wide}} quality {one.quality:.2f} (at least {one.quality_low:.2f})"
        f"   ${one.cost_usd:.6f}"
        for one in explanation.estimates
    ]
    for near in explanation.neighbours[:_NEIGHBOURS]:
        prompt = " ".join(near.prompt.split())
        lines.append(f"neighbour  {near.similarity:.3f}  {near.best_model:{wide}} {prompt[:70]}")
    if (more := len(explanation.neighbours) - _NEIGHBOURS) > 0:
        lines.append(f"           and {more} more, further away")
    return lines


def _sure(answer: types_pb2.CachedAnswer | types_pb2.Candidate) -> str:
    """Return how probable it is that an answer is right, where that was estimated and no check says that it is not."""
    return f", right with probability {answer.p_correct:.4f}" if answer.p_correct else ""


def replay_request(
    generation: str, settings: str, scope: str, period_s: float | None, limit: int
) -> admin_pb2.ReplayRequest:
    """Return a request to replay: as `service.replaying.Wanted`."""
    wanted = admin_pb2.ReplayRequest(generation=generation, settings=settings, scope=scope, limit=limit)
    if period_s is not None:
        wanted.period.FromNanoseconds(int(period_s * 1e9))
    return wanted


def _width(names: Iterable[str]) -> int:
    return max(map(len, names), default=0)


def replay_text(found: admin_pb2.ReplayResponse) -> str:
    """Return what would move for a person to read."""
    share = found.changed / max(found.replayed, 1)
    lacking = " (the others lack prompt or embedding)" if found.replayed < found.recorded else ""
    lines = [
        f"generation {found.generation}",
        f"replayed   {found.replayed:,} of {found.recorded:,} recorded plans{lacking}",
        f"would move {found.changed:,} ({share:.1%})",
        f"cost       ${found.cost_before_usd:.4f} to ${found.cost_after_usd:.4f} ({_signed(found.cost_change_usd, 4)})",
        f"quality    {found.quality_before:.4f} to {found.quality_after:.4f} expected, mean of {found.compared:,}",
    ]
    models = sorted({*found.models_before, *found.models_after}, key=lambda name: -found.models_after[name])
    wide = _width([_NO_MODEL, *models])
    if models:
        lines += ["", f"{'model':{wide}} {'before':>9} {'after':>9}"]
        lines += [
            f"{name or _NO_MODEL:{wide}} {found.models_before[name]:>9,} {found.models_after[name]:>9,}"
            for name in models
        ]
    if found.moves:
        lines += ["", f"{'from':{wide}} {'to':{wide}} {'decisions':>9} {'USD':>12} {'quality':>9}"]
        lines += [
            f"{move.from_model or _NO_MODEL:{wide}} {move.to_model or _NO_MODEL:{wide}} {move.decisions:>9,} "
            f"{_signed(move.cost_change_usd, 4):>12} {_signed(move.quality_change, 2):>9}"
            for move in found.moves
        ]
        examples = ", ".join(one.decision_id for one in found.examples[:3])
        lines += ["", f"for example {examples}: `waypost explain` shows them"]
    return "\n".join(lines)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}"
