"""What becomes of the log and of standard output is no business of decisions: nobody may read them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.conftest import ROOT
from tests.e2e.kit import Client, wait_for


def serves(client: Client) -> bool:
    """Return whether a service answers."""
    try:
        return bool(client.decide("Is anyone there?").decision_id)
    except grpc.RpcError:
        return False


@contextmanager
def serving_with(index: Path, data_dir: Path, redirections: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Start a server as a shell would with these redirections, and wait for it by calling it."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as folder:
        arguments = f'serve --index "{index}" --data-dir "{data_dir}" --listen unix:{folder}/s'
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "{sys.executable}" -m service.cli {arguments} {redirections}'],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "WAYPOST_LOG__LEVEL": "debug", "WAYPOST_SERVER__METRICS_LISTEN": ""},
        )
        client = Client(f"unix:{folder}/s")
        try:
            wait_for(lambda: process.poll() is not None or serves(client))
            yield process, client
        finally:
            client.close()
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "redirections", ["2>/dev/full", "2>&-", ">/dev/full", ">&-", "<&- >&- 2>&-", "2>/dev/full >&-"]
)
def test_it_serves_and_drains_whatever_its_standard_streams_are(
    starter_index: Path, tmp_path: Path, redirections: str
) -> None:
    with serving_with(starter_index, tmp_path, redirections) as (process, client):
        decision = client.decide("Where is my parcel?")
        assert client.report(decision, "It is on its way.").stored
        assert client.decide("Where is my parcel?").answer.content == "It is on its way."
        process.terminate()
        assert process.wait(30) == 0


def test_it_outlives_a_program_that_only_waits_until_it_is_ready(starter_index: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", "--index", starter_index, "--data-dir", tmp_path]
    process = subprocess.Popen(
        [*map(str, command), "--listen", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "WAYPOST_LOG__LEVEL": "debug", "WAYPOST_SERVER__METRICS_LISTEN": ""},
    )
    assert process.stdout
    assert process.stderr
    try:
        process.stderr.close()
        line = process.stdout.readline().decode()
        process.stdout.close()
        client = Client(line.split()[-1])
        assert client.decide("Where is my parcel?").plan.steps
        client.close()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
