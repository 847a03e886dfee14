"""Who is still connected: only what is certain is said."""

import socket
import sys

import pytest

from service.peers import gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/net")


@pytest.mark.parametrize(
    ("family", "listen", "connect"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "IPv4 at a socket for both"],
)
def test_a_caller_is_there_until_it_hangs_up(family: socket.AddressFamily, listen: str, connect: str) -> None:
    try:
        server = socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::")
    except OSError as error:
        pytest.skip(f"no such address here: {error}")
    with server:
        caller = socket.create_connection((connect, server.getsockname()[1]))
        accepted, _ = server.accept()
        host, port = caller.getsockname()[:2]
        peer = f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
        assert gone([peer]) == set()
        caller.close()
        accepted.close()
        assert gone([peer]) == {peer}


@pytest.mark.parametrize("peer", ["", "unix:", "unix:/run/s", "ipv4:nonsense", "ipv4:1.2.3.4:port", "ipv6:%5B::1"])
def test_of_what_it_does_not_know_nothing_is_said(peer: str) -> None:
    assert gone([peer]) == set()
