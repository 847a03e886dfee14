"""What can go wrong with a request, and the one table that gives every error its gRPC code.

WaypostError (index.errors)
├── RequestError
│   ├── InvalidRequest      a field is wrong: INVALID_ARGUMENT, names it
│   ├── PreconditionFailed  not now, not so: FAILED_PRECONDITION, names what must hold
│   ├── NotFound            no such decision, generation: NOT_FOUND
│   ├── Overloaded          the queue is full: RESOURCE_EXHAUSTED, says when to come again
│   ├── TooLarge            the response would not fit a message: RESOURCE_EXHAUSTED
│   ├── TooLate             one of a batch for which its deadline leaves no time: DEADLINE_EXCEEDED
│   ├── NotReady            warming up or draining: UNAVAILABLE
│   ├── Unauthenticated     no token, or an unknown one: UNAUTHENTICATED
│   └── Forbidden           not for this scope: PERMISSION_DENIED
└── SettingsError           the settings are wrong: every line of it
"""

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from index.errors import StoreDamagedError, StoreError, StoreFullError, WaypostError


class RequestError(WaypostError):
    """A request that cannot be answered; the text is for the caller."""


class InvalidRequest(RequestError):  # noqa: N818 - named for what it says of the request
    """Fields that are wrong: (field, what is wrong and how to put it right)."""

    def __init__(self, *violations: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations))
        self.violations = violations


class PreconditionFailed(RequestError):  # noqa: N818
    """Something must hold first: its kind in capitals, what it is about, and the remedy."""

    def __init__(self, kind: str, subject: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.subject = kind, subject


class NotFound(RequestError):  # noqa: N818
    """No such thing."""


class Overloaded(RequestError):  # noqa: N818
    """The bounded queue is full; worth another try after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the encoder's queue is full; try again in {retry_after * 1e3:.0f} ms")
        self.retry_after = retry_after


class TooLarge(RequestError):  # noqa: N818
    """The response would be larger than a message may be, which is `most_mib`."""

    def __init__(self, most_mib: int) -> None:
        super().__init__(f"the response would be larger than server.max_message_mib ({most_mib}): ask for less at once")


class TooLate(RequestError):  # noqa: N818
    """The deadline of a batch leaves no time for this one."""

    def __init__(self) -> None:
        super().__init__("the batch's deadline left no time for this one: send fewer at once, or give it longer")


class NotReady(RequestError):  # noqa: N818
    """Still warming up, or already draining."""


class Unauthenticated(RequestError):  # noqa: N818
    """No token, or one that is not known."""


class Forbidden(RequestError):  # noqa: N818
    """The token is not for this scope or call."""


class SettingsError(WaypostError):
    """The settings cannot be used; `problems` has one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


_MAX_TEXT: Final = 1_000  # bytes; all trailers together may have 8,192, in which some bytes count threefold

_CODES: dict[type[WaypostError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    StoreFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StoreDamagedError: grpc.StatusCode.DATA_LOSS,
    StoreError: grpc.StatusCode.UNAVAILABLE,
}


def to_code(error: WaypostError) -> grpc.StatusCode:
    """Return the code for an error: its own, or that of the nearest kind above it."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


def to_status(error: WaypostError) -> status_pb2.Status:
    """Return an error as a google.rpc.Status with its details."""
    status = status_pb2.Status(code=to_code(error).value[0], message=_short(str(error)))
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation
        status.details.add().Pack(
            error_details_pb2.BadRequest(
                field_violations=[violation(field=f, description=_short(text)) for f, text in error.violations]
            )
        )
    elif isinstance(error, PreconditionFailed):
        status.details.add().Pack(
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(
                        type=error.kind, subject=error.subject, description=_short(str(error))
                    )
                ]
            )
        )
    elif isinstance(error, Overloaded):
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry_delay(error)))
    return status


def retry_delay(error: WaypostError) -> Duration | None:
    """Return after how long a call is worth another try, None where it would fail again."""
    if not isinstance(error, Overloaded):
        return None
    return Duration(nanos=min(int(error.retry_after * 1e9), 999_999_999))


def _short(text: str) -> str:
    """Return a text cut to what fits into a call's trailers, of which it is a third, whatever it quotes."""
    raw = text.encode()
    return text if len(raw) <= _MAX_TEXT else raw[:_MAX_TEXT].decode(errors="ignore") + "…"
