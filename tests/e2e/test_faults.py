"""What callers, clocks and disks do wrong: a clear error, nothing lost, and nothing served that should not be."""

import contextlib
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from waypost.v1 import cache_pb2, router_pb2, types_pb2

from service.policy.state import State
from tests.conftest import Server, start_server
from tests.e2e.kit import Client, refusal, serving, wait_for

MIB = 1 << 20
PROMPT = "Where is my parcel?"


def with_bytes(message: router_pb2.ReportRequest | cache_pb2.PutRequest, field: int, raw: bytes) -> bytes:
    """Return a message with a text field that is these bytes, be they UTF-8 or not."""
    assert field < 16
    assert len(raw) < 128
    return message.SerializeToString() + bytes([field << 3 | 2, len(raw)]) + raw


def test_an_answer_of_ten_megabytes_is_refused_and_the_token_stays_good(client: Client, scope: str) -> None:
    decision = client.decide(PROMPT, scope)
    large = "x" * (10 * MIB)
    for call in (lambda: client.report(decision, large), lambda: client.put(PROMPT, large, scope)):
        refused = refusal(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("answer",))
        assert "10,485,760 bytes, at most 4,194,304" in refused.text
    assert "cache.max_answer_kib (1024)" in client.report(decision, "x" * (2 * MIB)).not_stored_because
    assert client.decide(PROMPT, scope).WhichOneof("outcome") == "plan"
    assert client.report(decision, "yes").stored


def test_an_answer_of_nothing_is_not_stored_and_the_token_stays_good(client: Client, scope: str) -> None:
    decision = client.decide(PROMPT, scope)
    assert client.report(decision, "").not_stored_because == "the answer is empty"
    assert refusal(lambda: client.put(PROMPT, "", scope)).fields == ("answer",)
    assert client.decide(PROMPT, scope).WhichOneof("outcome") == "plan"
    assert client.report(decision, "yes").stored


@pytest.mark.parametrize("raw", [b"\xff", b"caf\xc3", b"\xed\xa0\x80", b"ok\xc0\x80"], ids=repr)
def test_an_answer_that_is_no_utf8_is_refused_and_the_token_stays_good(client: Client, scope: str, raw: bytes) -> None:
    decision = client.decide(PROMPT, scope)
    report = router_pb2.ReportRequest(
        decision_id=decision.decision_id,
        fill_token=decision.plan.fill_token,
        model="small",
        outcome=types_pb2.OUTCOME_OK,
    )
    put = cache_pb2.PutRequest(scope=scope, prompt=PROMPT)
    for method, sent in (("Router/Report", with_bytes(report, 5, raw)), ("Cache/Put", with_bytes(put, 5, raw))):
        refused = refusal(lambda method=method, sent=sent: client.raw(method, sent))  # type: ignore[misc]
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "not UTF-8" in refused.text
    assert client.decide(PROMPT, scope).WhichOneof("outcome") == "plan"
    assert client.report(decision, "yes").stored


def test_a_token_of_another_scope_s_decision_or_a_guessed_one_stores_nothing(client: Client, scope: str) -> None:
    mine, other = client.decide(PROMPT, scope), client.decide(PROMPT, f"{scope}-other")
    for token in (other.plan.fill_token, mine.decision_id, uuid.uuid4().hex[:24], "é", "x" * 10_000):
        refused = refusal(lambda token=token: client.report(mine, "stolen", fill_token=token))  # type: ignore[misc]
        assert refused.kinds == ("FILL_TOKEN_UNKNOWN",)
    assert client.answers(scope) == client.answers(f"{scope}-other") == []
    assert client.report(mine, "mine").stored
    assert refusal(lambda: client.report(mine, "again")).kinds == ("FILL_TOKEN_USED",)
    assert client.decide(PROMPT, scope).answer.content == "mine"
    assert client.decide(PROMPT, f"{scope}-other").WhichOneof("outcome") == "plan"


def test_a_token_of_before_a_kill_has_lapsed_and_what_was_acknowledged_is_there(
    starter_index: Path, tmp_path: Path
) -> None:
    server = start_server(starter_index, tmp_path)
    client = Client(server.address)
    open_, stored = client.decide(PROMPT, "shop"), client.decide("Do you ship abroad?", "shop")
    assert client.report(stored, "Yes.").stored
    # Reported, and killed before it could be answered: it is there wholly or not at all.
    under_way = [client.decide(f"{PROMPT} {i}", "shop") for i in range(50)]
    calls = [
        client.router.Report.future(
            router_pb2.ReportRequest(
                decision_id=one.decision_id,
                fill_token=one.plan.fill_token,
                model="small",
                outcome=types_pb2.OUTCOME_OK,
                answer=f"answer {i}",
            )
        )
        for i, one in enumerate(under_way)
    ]
    calls[0].result(30)
    server.process.send_signal(signal.SIGKILL)
    acknowledged = {i for i, call in enumerate(calls) if call.exception(30) is None}
    server.stop()
    client.close()
    with serving(starter_index, tmp_path) as again:
        client = Client(again.address)
        assert client.decide("Do you ship abroad?", "shop").answer.content == "Yes."
        for i in range(len(under_way)):
            found = client.decide(
                f"{PROMPT} {i}", "shop", cache=types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_EXACT_ONLY)
            ).answer.content
            assert found == f"answer {i}" or (found == "" and i not in acknowledged)
        refused = refusal(lambda: client.report(open_, "late"))
        assert refused.code is grpc.StatusCode.NOT_FOUND or refused.kinds == ("FILL_TOKEN_LAPSED",)
        assert client.decide(PROMPT, "shop").WhichOneof("outcome") == "plan"
        client.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, full soon."""
    if not Path("/bin/mount").exists():
        pytest.skip("no mount here")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False).returncode:
        pytest.skip("a file system can only be mounted by root, and not in every container")
    yield disk
    subprocess.run(["/bin/umount", disk], check=True)


def test_a_full_disk_is_a_clear_error_and_goes_on_serving_what_is_there(starter_index: Path, small_disk: Path) -> None:
    with serving(starter_index, small_disk / "data", "[journal]\nenabled = false\n") as server:
        client = Client(server.address)
        text = "word " * 20_000
        stored: list[str] = []
        refused = None
        while refused is None:
            assert len(stored) < 100, "the disk is never full"
            prompt = f"What is number {len(stored)}?"
            decision = client.decide(prompt, "shop")
            try:
                assert client.report(decision, f"{prompt} {text}").stored
                stored.append(prompt)
            except grpc.RpcError:
                refused = refusal(lambda decision=decision: client.report(decision, text))  # type: ignore[misc]
        assert len(stored) > 3
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert re.search("make room on the disk", refused.text)
        assert client.decide(prompt, "shop").WhichOneof("outcome") == "plan"
        served(client, stored, text)
        wrong = client.decide(stored.pop(0), "shop")
        told = refusal(lambda: client.report(wrong, "", answer_wrong=True, model="", outcome=0, fill_token=""))
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.decide("What is number 0?", "shop").WhichOneof("outcome") == "plan", "wrong, and served no more"
        subprocess.run(["/bin/mount", "-o", "remount,size=50m", small_disk], check=True)
        assert client.report(decision, "at last").stored, "the token stays good"
        client.close()
        restarted(server, starter_index, small_disk, stored, text)


@pytest.mark.parametrize(
    ("gone", "event"),
    [
        (None, "journal_not_written"),
        ("journal.sqlite3-shm", "journal_not_opened"),
        ("journal.sqlite3*", "journal_not_opened"),
        ("policy.sqlite3*", "policy_state_not_opened"),
    ],
)
def test_a_full_disk_keeps_no_start_from_serving_what_is_there(
    starter_index: Path, small_disk: Path, gone: str | None, event: str
) -> None:
    data = small_disk / "data"
    with serving(starter_index, data) as server:
        client = Client(server.address)
        assert client.put(PROMPT, "Here.", "shop").entry_id
        client.decide("Do you ship abroad?", "shop")
        client.close()
        server.stop(signal.SIGKILL)
    for path in data.glob(gone) if gone else ():
        path.unlink()
    room = fill(small_disk)
    with serving(starter_index, data) as again:
        client = Client(again.address)
        assert client.decide(PROMPT, "shop").answer.content == "Here."
        assert client.decide("Do you ship abroad?", "shop").plan.steps
        told = wait_for(lambda: next((line for line in again.log if event in line), ""))
        assert "make room on the disk" in told
        room.unlink()
        if not gone:
            wait_for(lambda: (client.decide("And now?", "shop"), any("written_again" in line for line in again.log))[1])
        client.close()


async def test_what_the_policy_remembers_is_read_on_a_disk_without_room_for_shared_memory(
    tmp_path: Path, small_disk: Path
) -> None:
    state = State(tmp_path / "policy.sqlite3")
    state.put("budget", "", 7)
    await state.flush()
    for name in ("policy.sqlite3", "policy.sqlite3-wal"):  # as a kill leaves them
        shutil.copy(tmp_path / name, small_disk / name)
    await state.close()
    fill(small_disk)
    again = State(small_disk / "policy.sqlite3")
    assert again.load() == {"budget": {"": 7}}
    await again.close()


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    room = disk / "room"
    with room.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return room


def restarted(server: Server, index: Path, disk: Path, stored: list[str], text: str) -> None:
    server.stop(signal.SIGKILL)
    with serving(index, disk / "data", "[journal]\nenabled = false\n") as again:
        client = Client(again.address)
        served(client, stored, text)
        client.close()


def served(client: Client, stored: list[str], text: str) -> None:
    for prompt in stored:
        assert client.decide(prompt, "shop").answer.content == f"{prompt} {text}"
