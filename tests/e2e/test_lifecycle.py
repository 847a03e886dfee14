"""A server's life: not ready, ready, draining, gone; and what it says when it cannot start."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from waypost.v1 import admin_pb2, references_pb2, router_pb2

from index.encoder import artefact_digest
from tests.conftest import ROOT, Server, run_waypost
from tests.e2e.kit import NO_BUDGET, OPTIONS, Client, refusal, serving, to_refusal, wait_for

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["waypost.v1.Router", "waypost.v1.Cache", "waypost.v1.References", "waypost.v1.Admin"]
QUICK = [*OPTIONS, ("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50)]


def health(channel: Any, name: str = "") -> int:
    status: int = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name)).status
    return status


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def loading(index: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """Start a server that goes on loading until the pipe is written to."""
    root = tmp_path / "index"
    shutil.copytree(index, root)
    pipe = root / "CURRENT"
    pipe.unlink()
    os.mkfifo(pipe)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "service.cli", "serve", "--index", str(root), "--listen", address]
    # Nobody who merely watches may hold it for so long.
    environment = {**os.environ, "WAYPOST_SERVER__METRICS_LISTEN": "", "WAYPOST_SERVER__DRAIN_S": "600"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--data-dir", str(tmp_path / "data")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield process, address, pipe
        finally:
            process.kill()


def current(index: Path) -> str:
    return (index / "CURRENT").read_text()


def test_it_is_not_serving_until_it_is_loaded(starter_index: Path, tmp_path: Path) -> None:
    with loading(starter_index, tmp_path) as (process, address, pipe):
        channel = grpc.insecure_channel(address, options=QUICK)
        grpc.channel_ready_future(channel).result(60)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == NOT_SERVING
        assert [health(channel, name) for name in ("", *SERVICES)] == [NOT_SERVING] * 5
        client = Client(address)
        for call in (
            lambda: client.decide("a prompt"),
            lambda: client.put("a prompt", "yes"),
            lambda: client.admin.GetInfo(admin_pb2.GetInfoRequest()),
            lambda: client.raw("Router/Decide", b"\xff"),
        ):
            told = refusal(call)
            assert told.code is grpc.StatusCode.UNAVAILABLE
            assert "ask the health service" in told.text
        pipe.write_text(current(starter_index))
        assert next(watched).status == SERVING
        assert [health(channel, name) for name in ("", *SERVICES)] == [SERVING] * 5
        assert client.decide("a prompt").plan.steps
        process.send_signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        assert process.wait(30) == 0
        client.close()
        channel.close()


def test_a_signal_during_loading_is_honoured(starter_index: Path, tmp_path: Path) -> None:
    with loading(starter_index, tmp_path) as (process, address, pipe):
        channel = grpc.insecure_channel(address, options=QUICK)
        grpc.channel_ready_future(channel).result(60)
        channel.close()
        process.send_signal(signal.SIGTERM)
        pipe.write_text(current(starter_index))
        assert process.wait(30) == 0


def test_a_signal_before_anything_is_loaded_is_honoured(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waypost.toml")
    command = [sys.executable, "-m", "service.cli", "serve", "--config", str(tmp_path / "waypost.toml")]
    with subprocess.Popen(command, cwd=ROOT) as process, (tmp_path / "waypost.toml").open("w"):  # it reads by now
        for _ in range(30):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it came just before a read, which waits for us
                process.wait(1)
                break
        assert process.returncode == 0


def test_an_unknown_service_has_no_health(client: Client) -> None:
    assert refusal(lambda: health(client.channel, "waypost.v1.Nobody")).code is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_every_service(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in SERVICES),
    ]
    listed, *described = stub.ServerReflectionInfo(iter(requests))
    assert {service.name for service in listed.list_services_response.service} >= {*SERVICES, "grpc.health.v1.Health"}
    assert all(found.file_descriptor_response.file_descriptor_proto for found in described)


# One worker, so that much is under way; on a busy machine that may take longer than is usually left to it.
SLOW = "[encoder]\nworkers = 1\n[server]\ndrain_s = 100\n"


def test_requests_under_way_are_finished_when_it_is_told_to_stop(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, SLOW) as server:
        client = Client(server.address)
        prompts = [f"a prompt that is long enough to take a while {i} " + "and more words " * 60 for i in range(80)]
        calls = [client.router.Decide.future(router_pb2.DecideRequest(prompt=prompt)) for prompt in prompts]
        stats = client.admin.GetStats(admin_pb2.GetStatsRequest())
        assert stats.decisions < 80, "nothing was under way any more"
        server.process.send_signal(signal.SIGTERM)
        answers = [call.result(60) for call in calls]
        assert all(answer.plan.steps for answer in answers)
        assert server.process.wait(30) == 0
        assert refusal(lambda: client.decide("too late")).code is grpc.StatusCode.UNAVAILABLE
        client.close()


def test_new_calls_are_turned_away_while_it_drains(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, SLOW) as server:
        client = Client(server.address)
        long = "words and more words " * 60
        calls = [client.router.Decide.future(router_pb2.DecideRequest(prompt=f"{i} {long}")) for i in range(60)]
        client.admin.GetStats(admin_pb2.GetStatsRequest())
        server.process.send_signal(signal.SIGTERM)

        def turned_away() -> bool:
            try:
                client.decide("hello", timeout=10)
            except grpc.RpcError as error:
                return to_refusal(error).code is grpc.StatusCode.UNAVAILABLE
            return False

        wait_for(turned_away)
        assert all(call.result(60).plan.steps for call in calls)
        assert server.process.wait(30) == 0
        client.close()


def test_a_second_signal_does_no_harm(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path) as server:
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_ctrl_c_stops_it_in_order(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path) as server:
        assert server.stop(signal.SIGINT) == 0
        assert not any("Traceback" in line for line in server.log)


def test_a_restart_keeps_answers_and_live_references(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        client.put("What is the capital of Peru?", "", "a", chunks=["Li", "ma"], source_tags=["geo"], model="m")
        client.upsert(
            references_pb2.Reference(id="mine", prompt="frobnicate the widget", best_model="large"), scope="a"
        )
        client.put("gone", "soon", "a")
        client.invalidate("a", source_tags=["nothing"])
        client.invalidate("a", radius={"prompt": "gone", "min_similarity": 0.99})
        before = client.answers("a")
        client.close()
        assert server.stop() == 0
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        assert client.answers("a") == before
        answer = client.decide("What is the capital of Peru?", "a").answer
        assert (answer.content, list(answer.chunks)) == ("Lima", ["Li", "ma"])
        near = client.decide("frobnicate the widget now", "a", explain=True).explanation.neighbours[0]
        assert near.reference_id == "mine"
        assert client.decide("gone", "a").WhichOneof("outcome") == "plan"
        client.close()


def another_encoder(folder: Path) -> Path:
    """Return a copy of the default encoder that counts as another: its window is shorter."""
    shutil.copytree(ROOT / "encoders" / "all-MiniLM-L6-v2", folder)
    path = folder / "encoder.json"
    description = json.loads(path.read_text())
    description["max_tokens"] = 64
    digests = [description["files"][name] for name in ("model.onnx", "tokenizer.json")]
    description["digest"] = artefact_digest([*digests, "64", description["prefix"]])
    path.write_text(json.dumps(description))
    return folder


def test_what_another_encoder_embedded_is_embedded_again_and_takes_part(starter_index: Path, tmp_path: Path) -> None:
    middling = "How do I reset my password? " * 20
    with serving(starter_index, tmp_path / "data") as server:
        client = Client(server.address)
        client.put("How do I reset my password?", "like this", "a", source_tags=["t"])
        client.put(middling, "like that", "a")
        client.upsert(
            references_pb2.Reference(id="mine", prompt="frobnicate the widget", best_model="large"), scope="a"
        )
        assert [answer.truncated for answer in client.answers("a")] == [False, False]
        client.close()
    other = another_encoder(tmp_path / "encoder")
    rows, index = tmp_path / "rows.jsonl", tmp_path / "index"
    rows.write_text('{"id": "r", "prompt": "hello there", "best_model": "small"}\n')
    models = ("--models", "reference_prompts/models.toml", "--encoder", other)
    assert run_waypost("build-index", "--references", rows, "--output", index, *models).returncode == 0
    env = {"WAYPOST_ENCODER__PATH": str(other), "WAYPOST_CACHE__MIN_PROBABILITY": "0"}
    with serving(index, tmp_path / "data", env=env) as server:
        client = Client(server.address)
        info = client.admin.GetInfo(admin_pb2.GetInfoRequest())
        assert info.encoder.max_tokens == 64
        near = client.decide("How can I reset my password?", "a", cache=NO_BUDGET)
        assert near.answer.content == "like this"
        assert client.decide(middling, "a").answer.content == "like that"
        assert sorted(answer.truncated for answer in client.answers("a")) == [False, True]
        voted = client.decide("frobnicate the widget now", "a", explain=True).explanation.neighbours[0]
        assert voted.reference_id == "mine"
        assert client.invalidate("a", source_tags=["t"]).removed == 1
        client.close()
    said = start_and_fail(
        "--index",
        starter_index,
        "--data-dir",
        tmp_path / "data",
        "--listen",
        "127.0.0.1:0",
        env=env,
    )
    assert "vectors of different encoders cannot be compared" in said


# ---- what it says when it cannot start ---------------------------------------------------------------------------


def start_and_fail(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Return what a server that cannot start says."""
    done = run_waypost("serve", *arguments, env={"WAYPOST_SERVER__METRICS_LISTEN": "", **(env or {})})
    assert done.returncode == 1
    assert "ready" not in done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_port_that_is_in_use_is_named(server: Server, starter_index: Path, tmp_path: Path) -> None:
    said = start_and_fail("--index", starter_index, "--data-dir", tmp_path, "--listen", server.address)
    assert f"cannot listen on {server.address}" in said
    assert "is another service using it?" in said


def test_a_socket_that_is_in_use_is_named_and_goes_on_serving(
    server: Server, starter_index: Path, tmp_path: Path
) -> None:
    said = start_and_fail("--index", starter_index, "--data-dir", tmp_path, "--listen", server.socket)
    assert f"cannot listen on {server.socket}" in said
    client = Client(server.socket)
    assert client.decide("a prompt").plan.steps
    client.close()


@pytest.mark.parametrize("below", [False, True])
def test_a_file_where_a_socket_is_to_be_is_named_and_left(starter_index: Path, tmp_path: Path, below: bool) -> None:  # noqa: FBT001
    (tmp_path / "file").write_text("mine")
    address = f"unix:{tmp_path}/file{'/s' * below}"
    said = start_and_fail("--index", starter_index, "--data-dir", tmp_path, "--listen", address)
    assert f"cannot listen on {address}" in said
    assert "name another address" in said
    assert "another service" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_socket_left_by_a_killed_server_is_taken_over(starter_index: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    for _ in range(2):
        with serving(starter_index, tmp_path, "", "--listen", address) as server:
            client = Client(address)
            assert client.decide("a prompt").plan.steps
            client.close()
            server.stop(signal.SIGKILL)
        assert (tmp_path / "s").exists()


def test_a_data_folder_that_is_in_use_is_named(server: Server, starter_index: Path) -> None:
    said = start_and_fail("--index", starter_index, "--data-dir", server.data_dir, "--listen", "127.0.0.1:0")
    assert f"is held by process {server.process.pid}" in said
    assert "one process at a time" in said


def test_a_missing_index_says_how_to_build_one(tmp_path: Path) -> None:
    said = start_and_fail("--index", tmp_path / "none", "--data-dir", tmp_path, "--listen", "127.0.0.1:0")
    assert "waypost build-index --references PATH --models models.toml" in said


def test_a_metrics_port_that_was_asked_for_and_is_in_use_is_named(starter_index: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = start_and_fail(
            "--index",
            starter_index,
            "--data-dir",
            tmp_path,
            "--listen",
            "127.0.0.1:0",
            env={"WAYPOST_SERVER__METRICS_LISTEN": address},
        )
    assert f"server.metrics_listen: cannot listen on {address}" in said


def test_two_servers_share_a_machine_though_both_would_have_the_default_metrics_port(
    starter_index: Path, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WAYPOST_")}
    command = [sys.executable, "-m", "service.cli", "serve", "--index", str(starter_index), "--listen", "127.0.0.1:0"]
    processes = []
    try:
        for name in "ab":
            processes.append(
                subprocess.Popen(
                    [*command, "--data-dir", str(tmp_path / name)],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                )
            )
            assert processes[-1].stdout
            assert processes[-1].stdout.readline().startswith("waypost is ready")
    finally:
        for process in processes:
            process.terminate()
            assert process.wait(30) == 0
            assert process.stdout
            process.stdout.close()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "encoder.json"])
def test_a_damaged_encoder_is_named(starter_index: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(ROOT / "encoders" / "all-MiniLM-L6-v2", folder)
    with (folder / name).open("r+b") as file:
        file.seek(5)
        file.write(b"\x00damaged")
    said = start_and_fail(
        "--index",
        starter_index,
        "--data-dir",
        tmp_path,
        "--listen",
        "127.0.0.1:0",
        env={"WAYPOST_ENCODER__PATH": str(folder)},
    )
    assert str(folder) in said
    assert "waypost export-encoder" in said
