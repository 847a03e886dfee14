"""The service, with an echo RPC in the same process: how fast any answer could be given there.

`/waypost.benchmarks.Echo/N` answers N bytes, whatever it is sent. Otherwise the same as `waypost serve`.
"""

import sys
from typing import Any

import grpc
import typer

from service import cli, server

_PREFIX = "/waypost.benchmarks.Echo/"


class Echo(grpc.GenericRpcHandler):
    """Answers with as many bytes as the method's name says."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, None where it is none of ours."""
        method: str = details.method
        if not method.startswith(_PREFIX):
            return None
        response = bytes(int(method.removeprefix(_PREFIX)))

        async def echo(request: bytes, context: Any) -> bytes:
            del request, context
            return response

        return grpc.unary_unary_rpc_method_handler(echo)


def rpc(size: int) -> str:
    """Return the full name of the RPC that answers `size` bytes."""
    return f"{_PREFIX}{size}"


def main() -> None:
    """Run `waypost serve` with the handler added."""
    plain = server.serve

    async def serve(settings: Any, ready: Any = lambda _: None, extra_handlers: Any = ()) -> None:
        await plain(settings, ready, [*extra_handlers, Echo()])

    server.serve = serve
    sys.argv[0] = "waypost"
    typer.main.get_command(cli.app)()


if __name__ == "__main__":
    main()
