"""A call that somebody logged, as the request it was: held to the contract's limits like any other."""

from collections.abc import Mapping, Sequence
from typing import Final

from waypost.v1 import router_pb2, types_pb2

from index.catalogue import Catalogue
from service.convert.fields import MAX_ANSWER, sized
from service.convert.incoming import to_request
from service.requests import Request

_NO_MODELS: Final = Catalogue(())


def to_logged(
    scope: str,
    prompt: str,
    messages: Sequence[tuple[str, str]],
    context: Mapping[str, str],
    extra: Mapping[str, str],
) -> Request:
    """Return the request of a logged call, or raise InvalidRequest.

    Args:
        scope: "" for the default one.
        prompt: "" where there are messages.
        messages: (role, content), oldest first.
        context: the texts of an AnswerContext, by field.
        extra: of the context.
    """
    message = router_pb2.DecideRequest(
        scope=scope,
        prompt=prompt,
        messages=[types_pb2.Message(role=role, content=content) for role, content in messages],
    )
    if context or extra:
        message.context.CopyFrom(types_pb2.AnswerContext(**context, extra=extra))
    return to_request(message, _NO_MODELS)


def check_answer(answer: str) -> str:
    """Return a logged answer; raises InvalidRequest where a report could not carry it."""
    return sized("answer", answer, MAX_ANSWER)
