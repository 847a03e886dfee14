"""The review of a step's answer: how likely it is right, and whether to keep it or to go on.

Up to three sources have a say, and where several do, their log-odds are averaged (a logarithmic opinion pool, Genest &
Zidek 1986): they judge the same answer and are anything but independent. The caller's score and mean log-probability,
read through what reports taught (`service.routing.feedback`), and the generation's acceptor, if it has one. With none
of them there remains what was expected of the model for this prompt. Plain failures need no probability. Called by
`service.operations`; it embeds nothing itself.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from index.acceptor import Acceptor, Floats, log_odds
from index.signs import failure, signs
from index.vectors import Vectors
from service.requests import Decision, Plan, Reviewed, RouteOptions, Shape
from service.routing.cascade import Team, break_even
from service.routing.feedback import Feedback

# What is left for an answer with a plain failure: a refusal can be right, and a cut-off answer can have said enough.
_AT_MOST: Final = {"empty": 0.01, "wrong format": 0.02, "refused": 0.1, "cut off": 0.2}
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller hands in: the answer, and its own score (0 to 1) and mean log-probability where it has them."""

    model: str
    answer: str
    score: float | None = None
    logprob_mean: float | None = None


class Seen(NamedTuple):
    """What an answer's text gives away: a plain failure, "" where there is none, and its signs if they are asked."""

    failure: str
    signs: Floats | None


def inspect(decision: Decision, given: Given, acceptor: Acceptor | None) -> Seen:
    """Return what an answer's text gives away. Pure, and the only part of a review that long texts make slow."""
    found = signs(decision.request.text, given.answer) if acceptor is not None and given.answer.strip() else None
    return Seen(failure(given.answer, decision.request.context), found)


def judge(
    decision: Decision,
    given: Given,
    text: Seen,
    acceptor: Acceptor | None,
    team: Team,
    feedback: Feedback,
    vectors: Vectors | None,
) -> Reviewed:
    """Return what is to be done with an answer of one of the plan's steps.

    Args:
        decision: it has a plan, and the plan a step of this model.
        given: what the caller hands in.
        text: what `inspect` made of it.
        acceptor: of the generation; None: it has none.
        team: what plans are made from.
        feedback: what reports taught.
        vectors: unit vectors of prompt and answer, one behind the other; None where there are none.
    """
    plan = decision.plan
    assert plan is not None  # noqa: S101 - checked at the edge
    at = next(i for i, step in enumerate(plan.steps) if step.model == given.model)
    expected = plan.steps[at].quality
    prior = plan.priors[at] if at < len(plan.priors) else expected
    evidence: list[tuple[str, float]] = []
    if given.score is not None:
        evidence.append(("score", log_odds(given.score)))
    if given.logprob_mean is not None:
        evidence.append(("logprob_mean", max(given.logprob_mean, -5.0)))
    if acceptor is not None and text.signs is not None:
        double = None if vectors is None else vectors.astype("f8")
        evidence.append(("acceptor", acceptor.logit(given.model, expected, text.signs, double)))
    scope = decision.request.scope
    said = [feedback.logit(scope, source, x) for source, x in evidence] or [log_odds(expected)]
    # Who is asked only after others were turned away has harder prompts to answer than all were.
    pooled = sum(said) / len(said) + log_odds(prior) - log_odds(expected)
    p = 1 / (1 + math.exp(-min(max(pooled, -30.0), 30.0)))
    p = min(p, _AT_MOST.get(text.failure, 1.0))
    accepted, following = _verdict(plan, at, p, text.failure, decision.request.route, team)
    return Reviewed(accepted, p, following, text.failure, tuple(evidence))


def _verdict(plan: Plan, at: int, p: float, failed: str, route: RouteOptions, team: Team) -> tuple[bool, str]:
    """Return whether to accept, and otherwise the next model, "" where none is left."""
    if plan.shape is Shape.ENSEMBLE:
        return p >= _HALF, ""
    one = plan.steps[at]
    # The same model elsewhere is for calls that fail: it would answer no better.
    other = next((step for step in plan.steps[at + 1 :] if not team.same(one.model, step.model)), None)
    following = other.model if other is not None else ""
    if at < len(plan.accept_at):
        return (p >= plan.accept_at[at], "" if p >= plan.accept_at[at] else following)
    if other is None:  # nothing better is to be had: keep what is an answer at all
        return not failed, ""
    if plan.accept_at:  # where the cascade ends; the steps behind it are for calls that fail
        return not failed, following if failed else ""
    price = other.cost_usd / route.willingness_to_pay if route.willingness_to_pay else 0.0
    least = break_even(one.quality, other.quality, team.agree(one.model, other.model), price)
    accepted = not failed and p >= min(least, least if route.min_quality is None else route.min_quality)
    return accepted, "" if accepted else following


def learn(decision: Decision, model: str, *, right: bool, feedback: Feedback) -> Reviewed | None:
    """Teach the sources what became of a reviewed answer, once; return what the review had said, None without one."""
    reviews = decision.reviews or {}
    reviewed = reviews.get(model)
    decision.reviews = {name: other for name, other in reviews.items() if name != model}
    if reviewed is not None and not reviewed.failure:
        for source, x in reviewed.evidence:
            feedback.learn(decision.request.scope, source, x, right=right)
    return reviewed
