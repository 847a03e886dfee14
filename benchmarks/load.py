"""Puts load on a running service and returns what the callers saw, with the server's CPU time beside it.

Uses the Go load generator where it can be built, as it takes least from the cores it shares with the service; without
Go, the Python one, whose numbers are lower for that reason.
"""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.process import ROOT, Service, finish, python

_GO: Final = ROOT / "benchmarks" / "loadgen"
_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of load saw. Latencies in milliseconds, CPU in seconds of the server over the run."""

    per_second: float
    p50: float
    p99: float
    requests: int
    errors: dict[str, int]
    outcomes: dict[str, int]
    server_cpu: float
    client_cpu: float

    @property
    def cpu_per_request(self) -> float:
        """Server CPU for one request, in milliseconds."""
        return 1e3 * self.server_cpu / max(self.requests, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: cold prompts, hot ones (whose answers are stored), or an echo.

    Args:
        callers: each with one request under way.
        requests: how many in all.
        prompts: file of cold prompts.
        hot: file of prompts with stored answers.
        hit_ratio: share of requests that take a hot prompt.
        scope: of all requests.
        echo: full name of the echo RPC, in place of decisions.
        payload: bytes in an echo's request.
        seconds: the run also ends after so long.
        loop: start again when the cold prompts run out.
        mode: of the cache, for all decisions.
    """

    callers: int
    requests: int
    prompts: Path | None = None
    hot: Path | None = None
    hit_ratio: float = 0.0
    scope: str = "cold"
    echo: str = ""
    payload: int = 0
    seconds: float = _LIMIT_S
    loop: bool = False
    mode: str = "default"

    def on(self, service: Service) -> Seen:
        """Put it on a service."""
        before = service.cpu()
        raw = _generate(self, service.address)
        cpu = service.cpu() - before
        failed = {k: v for k, v in raw["errors"].items() if v}
        if failed and sum(failed.values()) > 0.001 * raw["requests"]:
            raise SystemExit(f"calls failed: {failed} of {raw['requests']}; see {service.log}")
        return Seen(
            per_second=raw["per_second"],
            p50=raw["latency_ms"]["p50"],
            p99=raw["latency_ms"]["p99"],
            requests=raw["requests"],
            errors=failed,
            outcomes=raw.get("outcomes") or {},
            server_cpu=cpu,
            client_cpu=raw["client_cpu_s"],
        )


def _generate(load: Load, address: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "address": address,
        "callers": load.callers,
        "requests": load.requests,
        "duration": load.seconds,
        "deadline": 30_000,
    }
    if load.echo:
        arguments |= {"method": "echo", "rpc": load.echo, "payload": load.payload}
    else:
        arguments |= {"method": "decide", "scope": load.scope, "mode": load.mode}
        arguments |= {"prompts": load.prompts} if load.prompts else {}
        arguments |= {"hot": load.hot, "hit-ratio": load.hit_ratio} if load.hot else {}
    flags = [f"-{name}={value}" for name, value in arguments.items()] + ["-json"] + ["-loop"] * load.loop
    done = finish([*generator(), *flags], timeout=load.seconds + 60)
    raw: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return raw


@cache
def generator() -> tuple[str, ...]:
    """Return the command of a load generator, building the Go one where that is possible."""
    if shutil.which("go") and shutil.which("protoc"):
        out = Path(tempfile.gettempdir()) / "waypost-loadgen"
        built = subprocess.run([_GO / "build.sh", out], capture_output=True, text=True, check=False, timeout=600)
        if not built.returncode:
            return (str(out / "loadgen"),)
        print(f"note: the Go load generator does not build here:\n{built.stderr[-1_000:]}")
    print("note: the Python load generator is used; it takes CPU from the service, so rates are lower than with Go")
    return tuple(python("-m", "benchmarks.python_load"))


def kind() -> str:
    """Return which load generator is used."""
    return "Python" if "benchmarks.python_load" in generator() else "Go"
