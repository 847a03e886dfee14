"""Asking a running service over gRPC: batches of Decide with an explanation, past the cache.

Reads and fills nothing in the cache, but the service counts and remembers these decisions like any other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
from waypost.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

from index.catalogue import Catalogue
from index.records import Message, Model, Reference
from service import client
from service.client import CallError
from service.evaluation.answers import NEAR, Answered, Near
from service.evaluation.data import Rows, to_request
from service.evaluation.local import FALLBACKS
from service.requests import Request
from service.settings import check_address

# Small enough to leave room for other callers, large enough to fill the encoder's batches.
_BATCH: Final = 32
_BATCH_BYTES: Final = 1 << 20
_CALLS_AT_ONCE: Final = 4
_ATTEMPTS: Final = 6
_SECONDS: Final = 120.0
_OPTIONS: Final = (*client.NO_PROXY, ("grpc.max_receive_message_length", -1))
_REFUSED: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_FULL: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_FALLBACKS: Final = frozenset(reason.value for reason in FALLBACKS)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: where it is, and as whom it is asked."""

    address: str
    scope: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        try:
            check_address(self.address)
        except ValueError as error:
            raise CallError(f"--address: {error}") from error

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return client.metadata(self.token)

    def channel(self) -> grpc.Channel:
        """Return a channel that takes explanations of any size."""
        return grpc.insecure_channel(self.address, options=_OPTIONS)

    def failure(self, error: grpc.RpcError) -> CallError:
        """Return what a failed call says, and what to do about it."""
        return client.failure(self.address, error)


def catalogue(service: Service) -> Catalogue:
    """Return the catalogue a service has in use; raises CallError."""
    with service.channel() as channel:
        try:
            info = admin_pb2_grpc.AdminStub(channel).GetInfo(
                admin_pb2.GetInfoRequest(), timeout=10.0, metadata=service.metadata
            )
        except grpc.RpcError as error:
            refused = error.code() in _REFUSED
            remedy = ", or name the catalogue with --models or --index" if refused else ""
            raise CallError(f"{service.failure(error)}{remedy}") from error
    return Catalogue(tuple(_model(model) for model in info.models))


def answer(
    rows: Rows, service: Service, output_tokens: int, progress: Callable[[int], None] = lambda _: None
) -> Answered:
    """Return what a service answers on every row.

    Args:
        rows: held out.
        service: which.
        output_tokens: expected length of an answer, sent with every request.
        progress: called with the number of rows just answered.

    Raises:
        CallError: it cannot be reached, refuses, or its catalogue is another.
    """
    requests = [_message(to_request(r, rows, output_tokens, service.scope), r) for r in rows.references]
    with service.channel() as channel, ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="ask") as pool:
        stub = router_pb2_grpc.RouterStub(channel)

        def ask(batch: Sequence[router_pb2.DecideRequest]) -> list[router_pb2.DecideResponse]:
            answered = _ask(stub, batch, service)
            progress(len(batch))
            return answered

        futures = [pool.submit(ask, batch) for batch in _batches(requests)]
        try:
            responses = [response for future in futures for response in future.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _answered(rows, responses, service)


def _answered(rows: Rows, responses: Sequence[router_pb2.DecideResponse], service: Service) -> Answered:
    place = {model: i for i, model in enumerate(rows.models)}
    quality, cost = np.full(rows.quality.shape, np.nan), np.full(rows.quality.shape, np.nan)
    chosen, fallback = np.full(len(rows), -1), np.zeros(len(rows), np.bool_)
    for row, response in enumerate(responses):
        for estimate in response.explanation.estimates:
            if (column := place.get(estimate.model)) is not None:
                quality[row, column], cost[row, column] = estimate.quality, estimate.cost_usd
        if response.plan.steps:
            chosen[row] = place.get(response.plan.steps[0].model, -1)
        fallback[row] = response.plan.reason in _FALLBACKS or not response.explanation.neighbours
    if np.isnan(quality).any():
        missing = [m for m, i in place.items() if np.isnan(quality[:, i]).any()]
        raise CallError(f"{service.address}: expects nothing of {', '.join(missing)}: its catalogue is another one")
    generations = tuple(dict.fromkeys(response.generation for response in responses))
    near = [
        tuple(Near(n.similarity, n.best_model, n.prompt) for n in response.explanation.neighbours[:NEAR])
        for response in responses
    ]
    return Answered(quality, cost, chosen, fallback, generations, np.zeros(len(rows), np.int64), near=near)


def _ask(
    stub: router_pb2_grpc.RouterStub, batch: Sequence[router_pb2.DecideRequest], service: Service
) -> list[router_pb2.DecideResponse]:
    """Return one response for each request; what a full queue refused is asked again, later."""
    answered: dict[int, router_pb2.DecideResponse] = {}
    failure = router_pb2.Failure()
    for attempt in range(_ATTEMPTS):
        left = [i for i in range(len(batch)) if i not in answered]
        message = router_pb2.DecideBatchRequest(requests=[batch[i] for i in left])
        try:
            results = stub.DecideBatch(message, timeout=_SECONDS, metadata=service.metadata).results
        except grpc.RpcError as error:
            raise service.failure(error) from error
        for i, result in zip(left, results, strict=True):
            if result.WhichOneof("result") == "response":
                answered[i] = result.response
                continue
            failure = result.failure
            if failure.code != _FULL:
                raise CallError(f"{service.address}: row {batch[i].request_id!r}: {failure.message}")
        if len(answered) == len(batch):
            return [answered[i] for i in range(len(batch))]
        time.sleep(0.1 * 2**attempt)
    raise CallError(f"{service.address}: {failure.message}")


def _batches(requests: Sequence[router_pb2.DecideRequest]) -> Iterator[list[router_pb2.DecideRequest]]:
    batch: list[router_pb2.DecideRequest] = []
    size = 0
    for request in requests:
        if batch and (len(batch) == _BATCH or size + request.ByteSize() > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += request.ByteSize()
    if batch:
        yield batch


def _message(request: Request, reference: Reference) -> router_pb2.DecideRequest:
    turns = (*request.history, Message(reference.messages[-1].role, request.text)) if reference.messages else ()
    return router_pb2.DecideRequest(
        scope=request.scope,
        prompt="" if turns else request.text,
        messages=[types_pb2.Message(role=turn.role, content=turn.content) for turn in turns],
        cache=types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS),
        route=types_pb2.RouteControl(
            allow_models=sorted(request.route.allow), expected_output_tokens=request.route.output_tokens
        ),
        explain=True,
        request_id=reference.id,
    )


def _model(message: Any) -> Model:
    return Model(
        id=message.id,
        input_usd_per_mtok=message.input_usd_per_mtok,
        output_usd_per_mtok=message.output_usd_per_mtok,
        context_window=message.context_window,
        tier=message.tier,
        capabilities=frozenset(message.capabilities),
        kind=message.kind,
        aliases=tuple(message.aliases),
    )
