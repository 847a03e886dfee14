"""Which callers are still connected, as far as the operating system tells: gRPC does not say when a caller goes away.

Knows TCP on Linux, from /proc/net. Of a unix socket, and on other systems, it knows nothing and says so. Reads files,
so it is called on a thread.
"""

import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import unquote

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"  # what an IPv4 address begins with on a socket that takes both kinds


def gone(peers: Collection[str]) -> set[str]:
    """Return those of some peers (`ipv4:127.0.0.1:40000`, as gRPC names them) that are certainly not connected."""
    asked = {peer: known for peer in peers if (known := _as_in_proc(peer))}
    if not asked:
        return set()
    try:
        lines = [line for table in _TABLES if table.exists() for line in table.read_text("ascii").splitlines()[1:]]
    except OSError:
        return set()
    rows = [line.split()[2:4] for line in lines]
    connected = {remote for remote, state in rows if state == _ESTABLISHED}
    return {peer for peer, known in asked.items() if connected.isdisjoint(known)} if rows else set()


def _as_in_proc(peer: str) -> tuple[str, ...]:
    """Return the ways in which /proc/net may write an address: 32-bit words in the machine's own order. () for none."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    try:
        if kind == "ipv4":
            raw = socket.inet_pton(socket.AF_INET, host)
            return _written(raw, port), _written(_MAPPED + raw, port)
        if kind == "ipv6":
            return (_written(socket.inet_pton(socket.AF_INET6, host.strip("[]").partition("%")[0]), port),)
    except (OSError, ValueError):
        return ()
    return ()


def _written(raw: bytes, port: str) -> str:
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(raw) // 4}I", raw)) + f":{int(port):04X}"
