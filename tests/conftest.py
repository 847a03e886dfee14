"""A real server, with the real encoder, for tests that speak to it over a socket."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@dataclass
class Server:
    """A running `waypost serve`."""

    process: subprocess.Popen[str]
    address: str
    socket: str
    data_dir: Path
    index: Path
    log: list[str] = field(default_factory=list)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.address)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        shutil.rmtree(Path(self.socket.removeprefix("unix:")).parent, ignore_errors=True)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        return code


def run_waypost(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


def start_server(index: Path, data_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> Server:
    """Start a server on a free port and a socket, and wait until it says that it is ready."""
    socket = Path(tempfile.mkdtemp(prefix="waypost-")) / "s"
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--index",
        str(index),
        "--data-dir",
        str(data_dir),
        "--listen",
        "127.0.0.1:0",
        "--listen",
        f"unix:{socket}",
        *arguments,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"WAYPOST_SERVER__METRICS_LISTEN": "127.0.0.1:0", **os.environ, **(env or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    threading.Thread(target=lambda err=process.stderr: log.extend(_lines(err)), daemon=True).start()
    line = process.stdout.readline()
    ready = re.match(r"waypost is ready on (\S+)", line)
    if ready is None:
        process.kill()
        process.wait()
        raise RuntimeError(f"the server did not start: {line}{''.join(log)}")
    return Server(process, ready[1], f"unix:{socket}", data_dir, index, log)


def _lines(stream: object) -> Iterator[str]:
    try:
        yield from stream  # type: ignore[misc]
    except ValueError:  # closed while reading
        return


@pytest.fixture(scope="session")
def starter_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the starter prompts."""
    output = tmp_path_factory.mktemp("index") / "index"
    done = run_waypost(
        "build-index",
        "--references",
        "reference_prompts/starter",
        "--models",
        "reference_prompts/models.toml",
        "--output",
        output,
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def server(starter_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the starter index that the whole session shares: use a scope of your own."""
    running = start_server(starter_index, tmp_path_factory.mktemp("data"))
    yield running
    assert running.stop() == 0
