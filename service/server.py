"""The edge: gRPC in, domain calls, gRPC out. Admits requests, gives errors their codes, drains on SIGTERM.

With service.operations and service.convert the only user of the generated protobuf. Messages arrive as bytes and are
parsed by us, so that what is no message at all is INVALID_ARGUMENT like any other bad input.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final, cast

import grpc
import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2

from index.errors import WaypostError
from service import operations
from service.auth import ANYONE, authenticate
from service.errors import NotReady, SettingsError, TooLarge, to_code, to_status
from service.memory import give_back
from service.runtime import Runtime, load
from service.settings import ServerSettings, Settings, socket_path

_log = structlog.get_logger("waypost")
_DETAILS: Final = "grpc-status-details-bin"
# How long health says NOT_SERVING before calls are turned away, so that those who watch can leave first.
_NOTICE_S: Final = 0.2
# The collector's thresholds. Decisions are kept by the thousand, and Python's own (700, 10, 10) looked through all of
# them again and again: with 10,000 kept a fifth of the event loop's CPU, 0.13 s of it at a time.
_COLLECT_AFTER: Final = (10_000, 20, 50)

_SERVICES: Final = {
    "waypost.v1.Router": router_pb2.DESCRIPTOR.services_by_name["Router"],
    "waypost.v1.Cache": cache_pb2.DESCRIPTOR.services_by_name["Cache"],
    "waypost.v1.References": references_pb2.DESCRIPTOR.services_by_name["References"],
    "waypost.v1.Admin": admin_pb2.DESCRIPTOR.services_by_name["Admin"],
}


Operation = Callable[[bytes, operations.Call], Awaitable[Message | bytes]]


class Edge:
    """All RPCs, over a runtime that is set once it is loaded and unset while draining."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = 0
        self._idle = asyncio.Event()
        self.runtime: Runtime | None = None

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return a handler for every RPC of the contract."""
        found = []
        for service, descriptor in _SERVICES.items():
            methods: dict[str, Any] = {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._handler(operations.of(service, method.name, GetMessageClass(method.input_type)), method.name)
                )
                for method in descriptor.methods
            }
            found.append(grpc.method_handlers_generic_handler(service, methods))
        return found

    def _handler(
        self, operation: Operation, name: str
    ) -> Callable[[bytes, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[bytes]]:
        tokens, most_mib = self._settings.auth.tokens, self._settings.server.max_message_mib

        async def handle(raw: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
            started = perf_counter()
            runtime = self.runtime
            self._calls += 1
            try:
                if runtime is None:
                    raise NotReady("not ready: loading or shutting down; ask the health service")
                principal = ANYONE
                if tokens:
                    metadata = dict(context.invocation_metadata() or ())
                    principal = authenticate(self._settings.auth, metadata)  # type: ignore[arg-type]
                left = cast("float | None", context.time_remaining())  # the stubs do not know of calls without one
                deadline = None if left is None else started + left
                call = operations.Call(runtime, principal, started, deadline, context.peer)
                return _sent(await operation(raw, call), most_mib)
            except WaypostError as error:
                code, status = to_code(error), to_status(error)
                self._failed(name, code.name)
                await context.abort(code, status.message, trailing_metadata=((_DETAILS, status.SerializeToString()),))
            except asyncio.CancelledError:
                raise
            except Exception:  # noqa: BLE001 - one request must not end the others
                self._failed(name, grpc.StatusCode.INTERNAL.name)
                if not context.done():
                    _log.exception("internal_error", method=name)
                    await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the service's log")
            finally:
                self._calls -= 1
                if not self._calls:
                    self._idle.set()
            return b""

        return handle

    async def finished(self) -> None:
        """Wait until no call is under way."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    def _failed(self, method: str, code: str) -> None:
        if self.runtime is not None:
            self.runtime.decider.metrics.called(method, code)


async def serve(
    settings: Settings,
    ready: Callable[[Sequence[str]], None] = lambda _: None,
    extra_handlers: Sequence[grpc.GenericRpcHandler] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: all of them.
        ready: called with the bound addresses once decisions are made.
        extra_handlers: served beside the contract; benchmarks bring an echo to compare with.

    Raises:
        WaypostError: the index, the store or the encoder cannot be loaded, or an address cannot be bound.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    edge, watch = Edge(settings), health.aio.HealthServicer()
    server = grpc.aio.server(options=_options(settings.server))
    server.add_generic_rpc_handlers([*edge.handlers(), *extra_handlers])
    health_pb2_grpc.add_HealthServicer_to_server(watch, server)
    reflection.enable_server_reflection([*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    await _say(watch, health_pb2.HealthCheckResponse.NOT_SERVING)
    addresses = [_bind(server, address) for address in settings.server.listen]
    await server.start()
    runtime, metrics_server = None, None
    try:
        loading = asyncio.ensure_future(load(settings))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        runtime = await loading
        if not stop.is_set():
            metrics_server = _serve_metrics(settings.server, runtime)
            _settle()
            edge.runtime = runtime
            await _say(watch, health_pb2.HealthCheckResponse.SERVING)
            _log.info("ready", addresses=addresses)
            ready(addresses)
        await stopping
        _log.info("draining")
        await watch.enter_graceful_shutdown()
        await asyncio.sleep(_NOTICE_S)
    finally:
        if runtime is not None:
            runtime.decider.flights.close()  # who waits for another's answer would hold up the end
        await _drain(server, edge, settings.server.drain_s)
        edge.runtime = None
        if runtime is not None:
            await runtime.close()
        if metrics_server is not None:
            metrics_server.shutdown()
            metrics_server.server_close()
        _log.info("stopped")


def _settle() -> None:
    """Tell the collector that what is loaded stays, and give back the memory that only loading needed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    give_back()


async def _drain(server: grpc.aio.Server, edge: Edge, drain_s: float) -> None:
    """Turn new calls away, let those under way finish, then end the streams that watch health: they never would."""
    stopping = asyncio.ensure_future(server.stop(drain_s))
    await asyncio.wait({stopping, asyncio.ensure_future(edge.finished())}, return_when=asyncio.FIRST_COMPLETED)
    await server.stop(_NOTICE_S)
    await stopping


async def _say(watch: "health.aio.HealthServicer", status: int) -> None:
    for name in ("", *_SERVICES):
        await watch.set(name, status)


def _sent(response: Message | bytes, most_mib: int) -> bytes:
    """Return the bytes of a response; TooLarge where they are more than gRPC would send."""
    raw = response if isinstance(response, bytes) else response.SerializeToString()
    if len(raw) > most_mib << 20:
        raise TooLarge(most_mib)
    return raw


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    size = settings.max_message_mib << 20
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        # A second service on the same port is a mistake, not a way to share load.
        ("grpc.so_reuseport", 0),
    ]


def _bind(server: grpc.aio.Server, address: str) -> str:
    """Bind an address and return it as it can be called: a port of 0 becomes the one that was taken."""
    path = socket_path(address)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and not path.is_socket():
                raise FileExistsError(errno.EEXIST, "what stands there is no socket")
            if _answers(path):  # gRPC would take the path away from whoever listens there
                raise OSError(errno.EADDRINUSE, "someone listens there")
            server.add_insecure_port(f"unix:{path}")
            return f"unix:{path}"
        port = server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        told = error if isinstance(error, OSError) else _refusal(address, path) or error
        taken = getattr(told, "errno", None) == errno.EADDRINUSE
        remedy = ": is another service using it?" if taken else "; name another address"
        raise SettingsError([f"server.listen: cannot listen on {address} ({told}){remedy}"]) from error
    return f"{address.rpartition(':')[0]}:{port}"


def _refusal(address: str, path: Path | None) -> OSError | None:
    """Return why the system lets nobody listen on an address, which gRPC says in a log of its own alone."""
    host, _, port = address.rpartition(":")
    try:
        found = [] if path else socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, where = (socket.AF_UNIX, str(path)) if path else (found[0][0], found[0][4])
        with socket.socket(family) as probe:
            probe.bind(where)
    except OSError as error:
        return error
    return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _serve_metrics(settings: ServerSettings, runtime: Runtime) -> Any:
    """Serve the metrics. The default port may be taken by another sidecar; one that was asked for may not."""
    if not settings.metrics_listen:
        return None
    host, _, port = settings.metrics_listen.rpartition(":")
    try:
        server, _thread = start_http_server(int(port), host.strip("[]"), runtime.decider.metrics.registry)
    except OSError as error:
        if "metrics_listen" in settings.model_fields_set:
            raise SettingsError(
                [f"server.metrics_listen: cannot listen on {settings.metrics_listen} ({error})"]
            ) from error
        _log.warning("no_metrics", address=settings.metrics_listen, why=str(error))
        return None
    _log.info("metrics", address=f"{host}:{server.server_port}")
    return server


def run(settings: Settings, ready: Callable[[Sequence[str]], None]) -> None:
    """Serve on this thread until a signal says stop."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(serve(settings, ready))
        return
    asyncio.run(serve(settings, ready))
