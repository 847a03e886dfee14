"""The parts that several requests share, and the checks that every field goes through."""

import math
from collections.abc import Iterable, Sequence, Sized
from typing import Final

from google.protobuf.duration_pb2 import Duration
from waypost.v1 import types_pb2

from index.catalogue import Catalogue
from index.records import Message
from index.text import Context
from service.errors import InvalidRequest
from service.policy_settings import SCOPE
from service.requests import (
    DEFAULT_SCOPE,
    CacheMode,
    CacheOptions,
    RouteOptions,
    Shape,
)

MIB: Final = 1 << 20
MAX_ANSWER: Final = 4 * MIB
MAX_TURNS: Final = 1_000
MAX_BATCH: Final = 1_024
MAX_PAGE: Final = 1_000
# Of one call: more is a mistake of units, and would stay in every sum it was added to.
MAX_USAGE: Final = 1_000_000_000
DEFAULT_PAGE: Final = 100
_ROLES: Final = ("system", "user", "assistant", "tool")
_MAX_WAIT_S: Final = 60.0
_MAX_SECONDS: Final = 315_576_000_000  # what a Duration may hold: 10,000 years


def scope_of(name: str) -> str:
    """Return the scope a request names; the empty name is the default scope."""
    if not name:
        return DEFAULT_SCOPE
    if not SCOPE.fullmatch(name):
        raise InvalidRequest(("scope", f"{name[:64]!r}: use 1 to 128 of A-Z a-z 0-9 . _ : / @ -"))
    return name


def sized(field: str, text: str, limit: int) -> str:
    """Return a text of at most `limit` bytes."""
    # A character is at most four bytes: most texts need not be encoded to know that they fit.
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise InvalidRequest((field, f"{len(text.encode()):,} bytes, at most {limit:,} are taken"))
    return text


def in_range(field: str, value: float, low: float, high: float = math.inf) -> float:
    """Return a finite number within bounds."""
    if not (low <= value <= high) or math.isinf(value):
        span = f"{low:,.10g} to {high:,.10g}" if high != math.inf else f"at least {low:,.10g}, and finite"
        raise InvalidRequest((field, f"{value!r}: must be {span}"))
    return value


def to_seconds(field: str, duration: Duration, *, zero: bool = False) -> float:
    """Return a Duration in seconds; more than 0, unless `zero` lets that in as well."""
    seconds = duration.seconds + duration.nanos / 1e9
    enough = seconds > 0 or (seconds == 0 and zero)
    if not enough or seconds > _MAX_SECONDS or abs(duration.nanos) > 999_999_999:  # noqa: PLR2004 - nanos
        raise InvalidRequest(
            (field, f"{seconds!r} s: must be {'at least 0' if zero else 'more than 0'} and at most {_MAX_SECONDS:,} s")
        )
    return seconds


def at_most(field: str, values: Sized, limit: int) -> None:
    """Refuse more than so many values."""
    if len(values) > limit:
        raise InvalidRequest((field, f"{len(values):,} given, at most {limit:,} are taken"))


def to_prompt(prompt: str, messages: Sequence[types_pb2.Message]) -> tuple[str, tuple[Message, ...]]:
    """Return the text to decide on, and the turns before it."""
    if messages:
        if prompt:
            raise InvalidRequest(("messages", "give either prompt or messages, not both"))
        at_most("messages", messages, MAX_TURNS)
        for i, message in enumerate(messages):
            if message.role not in _ROLES:
                raise InvalidRequest(
                    (
                        f"messages[{i}].role",
                        f"{message.role[:64]!r}: must be one of {', '.join(_ROLES)}",
                    )
                )
        if messages[-1].role not in ("user", "tool"):
            raise InvalidRequest(
                (
                    f"messages[{len(messages) - 1}].role",
                    "the last turn must be the user's or a tool's",
                )
            )
        if sum(len(m.content.encode()) for m in messages) > MIB:
            raise InvalidRequest(("messages", f"more than {MIB:,} bytes in all"))
        text, field = messages[-1].content, f"messages[{len(messages) - 1}].content"
    else:
        text, field = sized("prompt", prompt, MIB), "prompt"
    if not text.strip():
        raise InvalidRequest((field, "empty: give the text to decide on"))
    return text, tuple(Message(m.role, m.content) for m in messages[:-1])


def to_context(message: types_pb2.AnswerContext) -> Context:
    """Return what an answer depends on."""
    at_most("context.extra", message.extra, 64)
    context = Context(
        message.system_prompt,
        message.tools,
        message.response_format,
        message.sampling,
        dict(message.extra),
    )
    texts = (context.system_prompt, context.tools, context.response_format, context.sampling)
    pairs = (part for pair in context.extra.items() for part in pair)
    if sum(len(t.encode()) for t in (*texts, *pairs)) > MIB:
        raise InvalidRequest(("context", f"more than {MIB:,} bytes in all"))
    return context


def to_models(field: str, names: Iterable[str], catalogue: Catalogue) -> frozenset[str]:
    """Return the ids of models given by id or alias."""
    found = []
    for name in names:
        model = catalogue.resolve(name)
        if model is None:
            raise InvalidRequest((field, f"{name[:256]!r} is not in the catalogue: {_known(catalogue)}"))
        found.append(model)
    return frozenset(found)


def _known(catalogue: Catalogue) -> str:
    shown = ", ".join(catalogue.ids[:20])
    return f"it has {shown}" + (", …" if len(catalogue.ids) > 20 else "")  # noqa: PLR2004 - enough to see


def to_cache(message: types_pb2.CacheControl) -> CacheOptions:
    """Return how the cache takes part."""
    try:
        mode = CacheMode(message.mode or 1)
    except ValueError:
        raise InvalidRequest(("cache.mode", f"{message.mode} is not a CacheMode")) from None
    has = message.HasField
    wait = to_seconds("cache.wait", message.wait, zero=True) if has("wait") else 0.0
    return CacheOptions(
        mode=mode,
        max_age=to_seconds("cache.max_age", message.max_age) if has("max_age") else None,
        error_budget=in_range("cache.error_budget", message.error_budget, 0, 1) if has("error_budget") else None,
        wait=in_range("cache.wait", wait, 0, _MAX_WAIT_S),
    )


def to_route(message: types_pb2.RouteControl, catalogue: Catalogue) -> RouteOptions:
    """Return what is asked of the plan."""
    has = message.HasField
    for field in ("allow_models", "deny_models"):
        at_most(f"route.{field}", getattr(message, field), 256)
    at_most("route.require", message.require, 64)
    if not all(message.require):
        raise InvalidRequest(("route.require", "an empty name: give capabilities of the catalogue's, or none"))
    if message.shape not in types_pb2.PlanShape.values():
        raise InvalidRequest(("route.shape", f"{message.shape} is not a PlanShape"))
    if has("willingness_to_pay") and not message.willingness_to_pay > 0:
        raise InvalidRequest(("route.willingness_to_pay", "must be more than 0 USD per point of quality"))

    def number(name: str, low: float, high: float) -> float | None:
        return in_range(f"route.{name}", getattr(message, name), low, high) if has(name) else None  # type: ignore[arg-type]

    tokens = number("expected_output_tokens", 1, 1_000_000)
    return RouteOptions(
        allow=to_models("route.allow_models", message.allow_models, catalogue),
        deny=to_models("route.deny_models", message.deny_models, catalogue),
        require=frozenset(message.require),
        max_cost_usd=number("max_cost_usd", 0, math.inf),
        max_latency_s=to_seconds("route.max_latency", message.max_latency) if has("max_latency") else None,
        min_quality=number("min_quality", 0, 1),
        willingness_to_pay=number("willingness_to_pay", 0, math.inf),
        output_tokens=int(tokens) if tokens is not None else None,
        pin=next(iter(to_models("route.pin_model", [message.pin_model], catalogue))) if message.pin_model else "",
        unit=sized("route.experiment_unit", message.experiment_unit, 256),
        shape=Shape(message.shape) if message.shape else None,
    )
