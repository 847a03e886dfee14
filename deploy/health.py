"""Says whether a Waypost serves: exit code 0 if it does, for health checks where nothing else speaks gRPC.

    python health.py [ADDRESS]

ADDRESS is host:port or unix:PATH. No token is needed.
"""  # noqa: INP001 - a program of its own

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SOCKET = "unix:/run/waypost/waypost.sock"
TIMEOUT_S = 3.0


def main() -> None:
    """Ask the health service once."""
    address = sys.argv[1] if len(sys.argv) > 1 else SOCKET
    # It is in the same container, where a proxy that this may be told of (http_proxy) would not find it.
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            health = health_pb2_grpc.HealthStub(channel)
            status = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status
        except grpc.RpcError as error:
            sys.exit(f"{address}: {error.code().name}: {error.details()}")
    if status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")


if __name__ == "__main__":
    main()
