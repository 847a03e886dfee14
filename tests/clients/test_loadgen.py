"""The load generator: its loads are bounded, stay on this machine, and are counted right."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from waypost.v1 import cache_pb2, cache_pb2_grpc

RUN_TIMEOUT_S = 60


class Server(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def socket(self) -> str: ...


def start(loadgen: str, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [loadgen, *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


def measure(loadgen: str, *flags: object) -> dict[str, Any]:
    done = start(loadgen, "-json", *flags)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write_prompts(path: Path, prompts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


@pytest.fixture
def scope() -> str:
    return f"loadgen/{uuid.uuid4()}"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    topics = ["tides", "taxes", "glaciers", "sonnets", "enzymes", "tariffs", "comets", "yeast"]
    return write_prompts(tmp_path / "prompts.jsonl", [f"Explain {topic}." for topic in topics])


@pytest.fixture
def echo() -> Iterator[str]:
    def same(payload: bytes, context: grpc.ServicerContext) -> bytes:
        del context
        return payload

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(same)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("address", ["10.0.0.1:50051", "example.com:443", "0.0.0.0:50051", "[2001:db8::1]:50051"])
def test_addresses_of_other_machines_are_refused(loadgen: str, prompts: Path, address: str) -> None:
    refused = start(loadgen, "-address", address, "-prompts", prompts, "-requests", 1)
    assert refused.returncode == 1
    assert "only loopback" in refused.stderr


def test_a_load_without_bounds_is_refused(loadgen: str, prompts: Path) -> None:
    refused = start(loadgen, "-prompts", prompts)
    assert refused.returncode == 1
    assert "always bounded" in refused.stderr


def test_every_request_is_counted_with_its_outcome(loadgen: str, server: Server, prompts: Path, scope: str) -> None:
    target = ["-address", server.address, "-prompts", prompts, "-scope", scope]
    result = measure(loadgen, *target, "-mode", "bypass", "-requests", 40, "-loop", "-callers", 4)
    assert result["stopped_by"] == "requests"
    assert result["requests"] == 40
    assert result["errors"] == {}
    assert result["outcomes"]["plan"] == 40
    assert result["per_second"] == pytest.approx(40 / result["elapsed_s"])
    assert result["client_cpu_s"] > 0
    latency = result["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
    assert latency["p99"] <= latency["max"] <= result["elapsed_s"] * 1000


def test_it_stops_when_the_prompts_run_out(loadgen: str, server: Server, prompts: Path, scope: str) -> None:
    target = ["-address", server.socket, "-prompts", prompts, "-scope", scope]
    result = measure(loadgen, *target, "-warmup", 3, "-duration", 30, "-callers", 2)
    assert result["stopped_by"] == "prompts"
    assert result["requests"] == 5


def test_it_stops_when_the_time_is_over(loadgen: str, server: Server, prompts: Path, scope: str) -> None:
    target = ["-address", server.address, "-prompts", prompts, "-scope", scope]
    result = measure(loadgen, *target, "-mode", "bypass", "-duration", 0.5, "-loop")
    assert result["stopped_by"] == "duration"
    assert 0.5 <= result["elapsed_s"] < 5
    assert result["requests"] > 0


def test_stored_prompts_are_mixed_in_at_the_ratio_asked_for(
    loadgen: str, server: Server, prompts: Path, tmp_path: Path, scope: str
) -> None:
    stored = ["What is the capital of France?", "Name three primary colours."]
    with grpc.insecure_channel(server.address) as channel:
        cache = cache_pb2_grpc.CacheStub(channel)
        for prompt in stored:
            cache.Put(
                cache_pb2.PutRequest(scope=scope, prompt=prompt, answer="Stored.", model="some-model"),
                timeout=10,
            )
    hot = write_prompts(tmp_path / "hot.jsonl", stored)
    target = ["-address", server.address, "-prompts", prompts, "-hot", hot, "-scope", scope]
    result = measure(loadgen, *target, "-hit-ratio", 0.75, "-mode", "exact_only", "-requests", 32)
    assert result["outcomes"]["exact_hit"] == 24
    assert result["outcomes"]["plan"] == 8


def test_any_rpc_can_be_measured_with_raw_bytes(loadgen: str, echo: str) -> None:
    target = ["-address", echo, "-method", "echo", "-payload", 500]
    result = measure(loadgen, *target, "-rpc", "/test.Echo/Echo", "-requests", 50, "-callers", 8)
    assert (result["requests"], result["errors"]) == (50, {})
    assert "outcomes" not in result


def test_errors_are_counted_by_code_and_have_no_latency(loadgen: str, echo: str) -> None:
    target = ["-address", echo, "-method", "echo"]
    result = measure(loadgen, *target, "-rpc", "/test.Echo/Nothing", "-requests", 5)
    assert result["errors"] == {"UNIMPLEMENTED": 5}
    assert result["latency_ms"]["max"] == 0
