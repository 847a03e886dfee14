"""What is stored without a decision: an answer that somebody puts, with all prompts that have it.

Checks what may be stored, embeds, and stores through `service.answers`. Called by the edge.
"""

from collections.abc import Sequence
from dataclasses import replace

from index.records import Answer
from index.text import answer_key
from service.decide import normalise
from service.errors import InvalidRequest
from service.lookup import NO_SEARCH
from service.reports import Report, as_wording, refusal, to_answer
from service.requests import Prompt, Request
from service.runtime import Runtime


async def put(
    runtime: Runtime, request: Request, prompt: Prompt, what: Report, wordings: Sequence[str]
) -> tuple[Answer, bool]:
    """Store an answer for a prompt and for its further wordings; return it, and whether it took another's place.

    Args:
        runtime: the service.
        request: whose answer it is.
        prompt: what it answers.
        what: the answer, checked against the contract's limits.
        wordings: further prompts that have it, in the context of the first.

    Raises:
        InvalidRequest: it may not be stored; names the field.
        StoreError: it could not be stored.
    """
    settings, answers = runtime.settings.cache.of(request.scope), runtime.decider.answers
    further = {one.key: one for text in wordings if (one := _wording(request.scope, text, prompt)).key != prompt.key}
    for field, asked in (("", prompt), *(("wordings", one) for one in further.values())):
        if refused := await refusal(request.context, asked, what, settings):
            raise InvalidRequest((field or refused[0], refused[1]))

    async def made(asked: Prompt) -> Answer:
        embedded = await runtime.decider.batcher.submit(asked.text, NO_SEARCH)
        vector, now = embedded.vector.astype("<f4").tobytes(), answers.clock.now()
        return to_answer(request, asked, what, runtime.encoder, vector, settings, truncated=embedded.truncated, now=now)

    stored, replaced = await answers.put(await made(prompt))
    runtime.decider.flights.stored(prompt.key, stored.private_to)
    for asked in further.values():
        await answers.put(as_wording(replace(await made(asked), private_to=stored.private_to), stored.id))
    return stored, replaced


def _wording(scope: str, text: str, prompt: Prompt) -> Prompt:
    """Return another prompt in the context of a first one."""
    asked = normalise(Request(scope, text))
    key = answer_key(scope, prompt.context, asked.text)
    return replace(
        asked, context=prompt.context, key=key, turns=prompt.turns, exact_only=asked.exact_only or prompt.exact_only
    )
