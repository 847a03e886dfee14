"""A review from call to outcome: embeds what the acceptor wants to see, judges, remembers, counts, and learns.

The judging itself is `service.routing.review`. Called by `service.operations`, for Review and for reports on answers
that were reviewed.
"""

import asyncio
from time import perf_counter

import numpy as np

from index.acceptor import Acceptor
from index.text import canonical
from index.vectors import Vectors
from service.decide import Decider
from service.lookup import NO_SEARCH
from service.requests import Decision, Reviewed
from service.routing.review import Given, inspect, judge, learn

# Longer texts are read on a thread: JSON and signs of so many characters take the event loop a millisecond.
_LONG = 4_000
_MARGIN_S = 0.005
_HALF = 0.5
# Reviews of one decision that its explanation tells of: the latest.
_NOTED = 16


async def review(decider: Decider, decision: Decision, given: Given, deadline: float | None) -> Reviewed:
    """Judge an answer of one of the plan's steps.

    Args:
        decider: whose generation, batcher and feedback are used.
        decision: it has a plan with a step of this model.
        given: what the caller hands in.
        deadline: when the caller gives up (perf_counter); the review is then made without embeddings.

    Raises:
        Overloaded: the encoder's queue is full.
    """
    generation = decider.generation
    acceptor = generation.acceptor
    vectors = None
    if acceptor is not None and acceptor.embeds and given.answer.strip():
        vectors = await _embedded(decider, decision, acceptor, given.answer, deadline)
    if len(given.answer) + len(decision.request.text) > _LONG:
        text = await asyncio.to_thread(inspect, decision, given, acceptor)
    else:
        text = inspect(decision, given, acceptor)
    team = decider.policy.team(generation)
    reviewed = judge(decision, given, text, acceptor, team, decider.feedback, vectors)
    decision.reviews = {**(decision.reviews or {}), given.model: reviewed}
    if decider.log.get(decision.id) is None:  # it came from the journal: reports on it must find the review
        decider.log.add(decision)
    what = "accepted" if reviewed.accepted else "escalated"
    why = f", {reviewed.failure}" if reviewed.failure else ""
    earlier = [note for note in decision.notes if note[0] == "review"]
    told = decision.notes if len(earlier) < _NOTED else tuple(n for n in decision.notes if n is not earlier[0])
    decision.notes = (*told, ("review", f"{given.model} {what} at {reviewed.p_acceptable:.3f}{why}"))
    decider.metrics.reviewed(decision.request.scope, accepted=reviewed.accepted, failure=reviewed.failure)
    return reviewed


def reported(decider: Decider, decision: Decision, model: str, quality: float | None, *, wrong: bool) -> None:
    """Take in how good an answer was in the end: the first report of it counts, if it was reviewed."""
    if model not in (decision.reviews or ()) or (quality is None and not wrong):
        return
    right = not wrong and (quality is None or quality >= _HALF)
    reviewed = learn(decision, model, right=right, feedback=decider.feedback)
    if reviewed is not None and reviewed.accepted:
        decider.metrics.accept_judged(decision.request.scope, right=right)


async def _embedded(
    decider: Decider, decision: Decision, acceptor: Acceptor, answer: str, deadline: float | None
) -> Vectors | None:
    """Return the vectors of prompt and answer, one behind the other; None where the deadline leaves no time."""
    batcher = decider.batcher
    left = None if deadline is None else (deadline - perf_counter()) * 0.9 - _MARGIN_S
    if left is not None and left <= 0:
        return None
    known, texts = np.frombuffer(decision.vector, "<f4"), [canonical(answer)]
    if len(known) * 2 != len(acceptor.head):  # decided without an embedding
        known, texts = known[:0], [decision.prompt.text, *texts]
    waiting = [batcher.submit(text, NO_SEARCH) for text in texts]
    try:
        found = await asyncio.wait_for(asyncio.gather(*waiting), left)
    except TimeoutError:
        return None
    return np.concatenate([known, *(one.vector for one in found)])
