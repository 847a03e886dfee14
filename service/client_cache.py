"""The cached answers of a running service, for the command line: list, remove, put, and lines of JSON for all of it."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from waypost.v1 import cache_pb2, cache_pb2_grpc

from service.client import NO_PROXY, CallError, failure, metadata

_PAGE: Final = 200
_FIELDS: Final = ("prompt", "answer", "context_fingerprint", "model", "content_type")


class Answers:
    """The answers of one scope of a service; use it with `with`.

    Args:
        address: host:port or unix:PATH.
        scope: tenant or application, "" for the default one.
        token: bearer token, "" for none.
        timeout: seconds, for each call.
    """

    def __init__(self, address: str, scope: str, token: str, timeout: float) -> None:
        self._address, self._scope = address, scope
        self._options: dict[str, Any] = {"timeout": timeout, "metadata": metadata(token)}
        self._channel = grpc.insecure_channel(address, options=[*NO_PROXY, ("grpc.max_receive_message_length", -1)])
        self._cache: Any = cache_pb2_grpc.CacheStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def list(self) -> Iterator[cache_pb2.StoredAnswer]:
        """Yield all answers, oldest first; raises CallError."""
        token = ""
        while True:
            request = cache_pb2.ListAnswersRequest(scope=self._scope, page_size=_PAGE, page_token=token)
            page = self._call(self._cache.ListAnswers, request)
            yield from page.answers
            token = page.next_page_token
            if not token:
                return

    def get(self, entry_id: str) -> cache_pb2.StoredAnswer:
        """Return one answer; raises CallError where it is not there."""
        request = cache_pb2.ListAnswersRequest(scope=self._scope, entry_ids=[entry_id])
        for answer in self._call(self._cache.ListAnswers, request).answers:
            found: cache_pb2.StoredAnswer = answer
            return found
        raise CallError(f"no answer {entry_id!r} in this scope: `waypost cache list` shows those there are")

    def invalidate(
        self,
        *,
        entries: Sequence[str] = (),
        tags: Sequence[str] = (),
        model: str = "",
        older_than: float | None = None,
        near: tuple[str, float] | None = None,
        every: bool = False,
        dry_run: bool = False,
    ) -> cache_pb2.InvalidateResponse:
        """Remove the answers that meet all conditions; arguments as in the contract, `older_than` in seconds."""
        request = cache_pb2.InvalidateRequest(
            scope=self._scope, entry_ids=entries, source_tags=tags, model=model, all=every, dry_run=dry_run
        )
        if older_than is not None:
            request.older_than.FromMilliseconds(int(older_than * 1_000))
        if near is not None:
            request.radius.prompt, request.radius.min_similarity = near
        found: cache_pb2.InvalidateResponse = self._call(self._cache.Invalidate, request)
        return found

    def put(self, row: dict[str, Any], now: float) -> bool | None:
        """Store an exported answer; return whether it took another's place, None where it has lapsed.

        Raises:
            ValueError: it is not an exported answer.
            CallError: the service refuses it.
        """
        request = to_put(row, self._scope, now)
        return None if request is None else bool(self._call(self._cache.Put, request).replaced)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, **self._options)
        except grpc.RpcError as error:
            raise failure(self._address, error) from error


def to_row(answer: cache_pb2.StoredAnswer) -> dict[str, Any]:
    """Return an answer as a line of an export; times in seconds since the epoch."""
    row: dict[str, Any] = {
        "prompt": answer.prompt,
        "answer": answer.content,
        "context_fingerprint": answer.context_fingerprint,
        "model": answer.model,
        "content_type": answer.content_type,
        "source_tags": list(answer.source_tags),
        "exact_only": answer.exact_only,
        "stored_at": _seconds(answer.stored_at),
    }
    if answer.HasField("expires_at"):
        row["expires_at"] = _seconds(answer.expires_at)
    if answer.chunk_bytes:
        row["chunk_bytes"] = list(answer.chunk_bytes)
    if answer.wordings:
        row["wordings"] = list(answer.wordings)
    return row


def to_put(row: dict[str, Any], scope: str, now: float) -> cache_pb2.PutRequest | None:
    """Return the request that stores a line of an export again, None where it has lapsed; raises ValueError."""
    _check(row)
    expires_at = row.get("expires_at")
    if expires_at is not None and expires_at <= now:
        return None
    request = cache_pb2.PutRequest(
        scope=scope,
        exact_only=row.get("exact_only") or False,
        source_tags=row.get("source_tags"),
        wordings=row.get("wordings"),
    )
    for name in _FIELDS:
        setattr(request, name, row[name])
    if expires_at is not None:
        request.ttl.CopyFrom(Duration(seconds=int(expires_at - now), nanos=int((expires_at - now) % 1 * 1e9)))
    if sizes := row.get("chunk_bytes"):
        raw, first = row["answer"].encode(), 0
        if sum(sizes) != len(raw):
            raise ValueError("chunk_bytes: together they are not the answer")
        for size in sizes:
            request.chunks.append(raw[first : first + size].decode())
            first += size
    return request


def _check(row: dict[str, Any]) -> None:
    """Raise ValueError where a field is not what an export has there."""
    if wrong := [name for name in _FIELDS if not isinstance(row.get(name), str)]:
        raise ValueError(f"{', '.join(wrong)}: missing, or not a text")
    for name, (fits, what) in _OPTIONAL.items():
        if row.get(name) is not None and not fits(row[name]):
            raise ValueError(f"{name}: not {what}")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and one >= 0 for one in value)


def _time(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _MAX_TIME


_MAX_TIME: Final = 1e12
_OPTIONAL: Final[dict[str, tuple[Callable[[object], bool], str]]] = {
    "source_tags": (_texts, "a list of texts"),
    "wordings": (_texts, "a list of texts"),
    "chunk_bytes": (_sizes, "a list of sizes in bytes"),
    "exact_only": (lambda value: isinstance(value, bool), "true or false"),
    "expires_at": (_time, "a time in seconds since the epoch"),
}


def read(line: bytes) -> dict[str, Any]:
    """Return a line of an export; raises ValueError."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - what json itself raises
    return row


def to_line(answer: cache_pb2.StoredAnswer) -> str:
    """Return an answer as one line for a person to read."""
    prompt = " ".join(answer.prompt.split())[:80]
    more = f" (and {len(answer.wordings)} more)" if answer.wordings else ""
    more += f" (only {answer.private_to})" if answer.private_to else ""
    lives = time.strftime("%Y-%m-%d", time.gmtime(answer.expires_at.seconds)) if answer.HasField("expires_at") else "-"
    stored = time.strftime("%Y-%m-%d %H:%M", time.gmtime(answer.stored_at.seconds))
    return (
        f"{answer.entry_id}  {stored}  {lives:10}  {answer.uses:6} uses  {answer.size:9,} B  "
        f"${answer.cost_usd:.5f}  {answer.model or '-':20}  {prompt}{more}"
    )


def to_text(answer: cache_pb2.StoredAnswer) -> str:
    """Return all of an answer for a person to read: its keys, its record and its text."""
    right, wrong = answer.verdicts_right, answer.verdicts_wrong
    facts = {
        "entry": answer.entry_id,
        "key": answer.key,
        "context": answer.context_fingerprint,
        "found": "exactly only" if answer.exact_only else "exactly, or by what means the same",
        "served to": f"only {answer.private_to}" if answer.private_to else "all of the scope",
        "stored": answer.stored_at.ToJsonString(),
        "lapses": answer.expires_at.ToJsonString() if answer.HasField("expires_at") else "never",
        "model": answer.model or "unknown",
        "type": answer.content_type,
        "tags": ", ".join(answer.source_tags) or "none",
        "uses": f"{answer.uses:,} since the service started",
        "verdicts": f"right {right:.1f}, wrong {wrong:.1f}, of the last ten or so" if right or wrong else "none yet",
        "saves": f"${answer.cost_usd:.6f} with each",
        "size": f"{answer.size:,} bytes" + (f", in {len(answer.chunk_bytes)} chunks" if answer.chunk_bytes else ""),
    }
    lines = [f"{name:10} {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", "asked as", answer.prompt, *answer.wordings, "", "answer", answer.content])


def _seconds(time_: Timestamp) -> float:
    return time_.seconds + time_.nanos / 1e9
