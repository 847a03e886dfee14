"""Asking a generation in this process: the same functions as the service, without its queue and its answers.

What is chosen goes by the whole policy, as in the service; only what it remembers (conversations, budgets spent,
health) is left out, and exploration, which is meant to deviate.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from index.generation import Generation
from index.records import Reference
from index.vectors import Vectors
from service.decide import normalise
from service.evaluation.answers import NEAR, Answered, Near, learn_prior
from service.evaluation.data import Rows, to_request
from service.lookup import Ask, search
from service.policy.policy import Policy
from service.requests import Decision, Reason, Request, Timings
from service.routing.choose import Known, fallback_model
from service.routing.estimate import Asked, estimate
from service.routing.plan import shaped
from service.settings import Settings

_AT_ONCE: Final = 256
FALLBACKS: Final = (Reason.FALLBACK, Reason.DEGRADED)


def answer(rows: Rows, vectors: Vectors, generation: Generation, settings: Settings) -> Answered:
    """Return what the service would answer on every row.

    Args:
        rows: held out.
        vectors: embeddings of their canonical prompts, shape (rows, dimensions).
        generation: the router.
        settings: of the service.
    """
    routing, policy = settings.routing, Policy(settings.policy, settings.routing, settings.review)
    policy.prepare(generation)
    column = [generation.catalogue.ids.index(model) for model in rows.models]
    place = {model: i for i, model in enumerate(rows.models)}
    quality, cost = np.empty(rows.quality.shape), np.empty(rows.quality.shape)
    chosen, fallback = np.full(len(rows), -1), np.zeros(len(rows), np.bool_)
    nearest: list[tuple[Near, ...]] = []
    base = generation.catalogue.ids.index(fallback_model(generation, routing.fallback))
    for first in range(0, len(rows), _AT_ONCE):
        batch = vectors[first : first + _AT_ONCE]
        requests = [to_request(r, rows, routing.output_tokens, "") for r in rows.references[first : first + _AT_ONCE]]
        prompts = [normalise(request) for request in requests]
        found = search([Ask(None, generation, None, prompt.text, base) for prompt in prompts], batch)
        for row, request, prompt, near, vector in zip(
            range(first, len(rows)), requests, prompts, found, batch, strict=False
        ):
            asked = Asked(prompt.text, vector, prompt.input_tokens, routing.output_tokens, base)
            result = estimate(
                generation, near, (), asked, evidence=routing.evidence, min_similarity=routing.min_similarity
            )
            decision = Decision("", request, prompt, generation.id, 0.0, Timings(), voters=result.voters)
            known = Known(result.estimates, result.confidence, result.reason)
            tokens = prompt.input_tokens + routing.output_tokens
            plan = shaped(*policy.preview(decision, known, generation, tokens), policy.team(generation))
            quality[row] = [result.estimates[i].quality for i in column]
            cost[row] = [result.estimates[i].cost_usd for i in column]
            chosen[row] = place[plan.steps[0].model] if plan.steps else -1
            fallback[row] = plan.reason in FALLBACKS or result.voters is None
            shown = result.voters.neighbours(NEAR) if result.voters is not None else ()
            nearest.append(tuple(Near.of(one.similarity, one.reference) for one in shown))
    prior, fold = learn_prior(rows, generation), np.zeros(len(rows), np.int64)
    return Answered(quality, cost, chosen, fallback, (generation.id,), fold, prior, nearest)


def texts(references: Sequence[Reference]) -> list[str]:
    """Return what is embedded for every reference when it is asked: as the service normalises it."""
    return [normalise(Request("", r.prompt, r.messages[:-1])).text for r in references]
