"""Child processes that are measured, and what the kernel says of them. Linux only: it reads /proc."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_S: Final = 120.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a running process has used, user and system, of all threads that are or were."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MB (10⁶ bytes): all of it, and its share where pages are shared with other processes."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    """Return the resident memory of a running process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = {name: int(kb) * 1_024 / 1e6 for name, kb in re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE)}
    return Memory(found["Rss"], found["Pss"])


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ran to its end: its output, wall time and CPU time in seconds."""

    output: str
    wall: float
    cpu: float


def finish(command: Sequence[str | Path], *, timeout: float = 900.0, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command in the repository's root and return what it took, or exit with its output where it failed."""
    started = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        watch = _Timer(process, timeout)
        assert process.stdout is not None  # noqa: S101 - asked for above
        with watch:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{output[-4_000:]}")
    return Finished(output, wall, usage.ru_utime + usage.ru_stime)


class _Timer:
    """Kills a process that takes too long."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        import threading

        self._timer = threading.Timer(seconds, process.kill)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def python(*arguments: str | Path) -> list[str]:
    """Return the command that runs this Python, with the repository on its path."""
    return [sys.executable, *map(str, arguments)]


def waypost(*arguments: str | Path) -> list[str]:
    """Return the command that runs Waypost's command line."""
    return python("-m", "service.cli", *arguments)


class Service:
    """A running service, stopped at the end of a `with` block.

    Args:
        index: index folder.
        work: a folder for its record and its log; both are left there.
        module: what is run to serve; benchmarks have some that add to `service.cli`.
        env: settings, as environment variables.
    """

    def __init__(
        self, index: Path, work: Path, *, module: str = "service.cli", env: Mapping[str, str] | None = None
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.log = work / "service.log"
        socket = work.resolve() / "s"
        command = python("-m", module, "serve", "--index", index, "--data-dir", work / "data")
        command += ["--listen", "127.0.0.1:0", "--listen", f"unix:{socket}"]
        self.socket = f"unix:{socket}"
        with self.log.open("w", encoding="utf-8") as log:
            started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"WAYPOST_SERVER__METRICS_LISTEN": "", **os.environ, **(env or {})},
            )
        self.address = self._wait_until_ready()
        self.ready_after = time.perf_counter() - started
        """Seconds from the start of the process until it said that it is ready."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        return cpu_seconds(self.pid)

    def memory(self) -> Memory:
        """Return its resident memory."""
        return memory(self.pid)

    def stop(self) -> int:
        """Stop it and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.stop()

    def _wait_until_ready(self) -> str:
        out = self._process.stdout
        assert out is not None  # noqa: S101 - asked for above
        with _Timer(self._process, _START_S):
            line = out.readline()
        ready = re.match(r"waypost is ready on (\S+)", line)
        if ready is None:
            self._process.kill()
            self._process.wait()
            raise SystemExit(f"the service did not start: {line}{self.log.read_text(encoding='utf-8')[-4_000:]}")
        return ready[1]


class Worker:
    """A child that answers one JSON line with another; see `answer` for its side.

    Args:
        command: of the child.
        env: variables for it, beside this process's own.
        without: variables whose names begin so are kept from it.
    """

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, without: str | None = None
    ) -> None:
        kept = {k: v for k, v in os.environ.items() if without is None or not k.startswith(without)}
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **(env or {})},
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer, or exit where the worker ended."""
        self._in.write(json.dumps(question) + "\n")
        self._in.flush()
        line = self._out.readline()
        if not line:
            raise SystemExit(f"a worker ended with code {self._process.wait()}: its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        self._in.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


def questions() -> Iterator[dict[str, Any]]:
    """Yield the questions a `Worker` asks, in the child."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**values: Any) -> None:
    """Answer the last question, in the child."""
    print(json.dumps(values), flush=True)
