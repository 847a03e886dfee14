"""`waypost cache`: what there is, what goes, and what is carried to another scope."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import types_pb2

from tests.conftest import ROOT, Server, run_waypost
from tests.e2e.kit import Client, refusal, serving

CONTEXT = types_pb2.AnswerContext(system_prompt="You are a shop's assistant.")


def run(server: Server, scope: str, *arguments: str | Path, code: int = 0) -> str:
    """Return what a command prints, or what it complains of where it fails."""
    done = run_waypost("cache", *arguments, "--address", server.address, "--scope", scope)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture
def filled(client: Client, scope: str) -> str:
    client.put("Where is my parcel?", "On its way.", scope, source_tags=["doc:1"], model="small")
    client.put("How do I return it?", "", scope, chunks=["With ", "the läbel."], context=CONTEXT)
    decision = client.decide("Do you ship abroad?", scope)
    assert client.report(decision, "To all of Europe.", ttl=Duration(seconds=3_600)).stored
    return scope


def test_a_list_shows_each_answer_on_a_line(server: Server, filled: str) -> None:
    lines = run(server, filled, "list").splitlines()
    assert len(lines) == 3
    assert "Where is my parcel?" in lines[0]
    assert [json.loads(line)["content"] for line in run(server, filled, "list", "--json").splitlines()] == [
        "On its way.",
        "With the läbel.",
        "To all of Europe.",
    ]
    assert len(run(server, filled, "list", "--limit", "2").splitlines()) == 2


def test_an_answer_is_shown_with_its_keys_and_its_record(server: Server, client: Client, filled: str) -> None:
    entry = client.decide("Where is my parcel?", filled).answer.entry_id
    said = run(server, filled, "show", entry)
    for part in (entry, "doc:1", "On its way.", "Where is my parcel?", "uses       2 since", "all of the scope"):
        assert part in said
    shown = json.loads(run(server, filled, "show", entry, "--json"))
    assert shown["key"].startswith(entry)
    assert shown["size"] == str(len("Where is my parcel?On its way."))
    assert "no answer 'nothing'" in run(server, filled, "show", "nothing", code=1)


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["--tag", "doc:1"], 2),
        (["--tag", "doc:2"], 3),
        (["--all"], 0),
        (["--near", "Where's my parcel?", "--within", "0.8"], 2),
        (["--older-than", "2w"], 3),
    ],
)
def test_nothing_is_removed_before_one_says_yes(
    server: Server, client: Client, filled: str, conditions: list[str], left: int
) -> None:
    listed = run(server, filled, "invalidate", *conditions).splitlines()
    assert len(listed) == 3 - left
    assert len(client.answers(filled)) == 3
    assert run(server, filled, "invalidate", *conditions, "--yes") == f"{3 - left} answer{'s' * (left != 2)} removed\n"
    assert len(client.answers(filled)) == left


def test_wrong_conditions_are_explained(server: Server, scope: str) -> None:
    assert "all: set `all`" in run(server, scope, "invalidate", code=1)
    assert "--older-than" in run(server, scope, "invalidate", "--older-than", "soon", code=2)
    alone = run(server, scope, "invalidate", "--all", "--within", "0.99", code=2)
    assert "--within" in alone
    assert "--near" in alone


def test_an_export_can_be_imported_into_another_scope(
    server: Server, client: Client, filled: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    run(server, filled, "export", path)
    other = f"{filled}-other"
    assert run(server, other, "import", path) == "3 answers stored, 0 in place of others\n"
    assert client.decide("Where is my parcel?", other).answer.content == "On its way."
    hit = client.decide("How do I return it?", other, context=CONTEXT).answer
    assert (hit.content, list(hit.chunks)) == ("With the läbel.", ["With ", "the läbel."])
    assert client.decide("How do I return it?", other).WhichOneof("outcome") == "plan"
    before, after = ({a.content: a for a in client.answers(scope)} for scope in (filled, other))
    for content, answer in before.items():
        copy = after[content]
        assert (copy.context_fingerprint, copy.model, copy.source_tags, copy.exact_only) == (
            answer.context_fingerprint,
            answer.model,
            answer.source_tags,
            answer.exact_only,
        )
        assert abs(copy.expires_at.seconds - answer.expires_at.seconds) <= 1
    assert run(server, other, "import", path) == "3 answers stored, 3 in place of others\n"
    assert "exists already" in run(server, filled, "export", path, code=1)


def test_wordings_and_verdicts_are_shown_and_wordings_travel(
    server: Server, client: Client, scope: str, tmp_path: Path
) -> None:
    prompts = ["How do I reset my password?", "How can I reset my password?", "how to reset my password"]
    for prompt in prompts:
        decision = client.decide(prompt, scope)
        client.report(decision, "Use the link.", model=decision.plan.steps[0].model, finish_reason="stop")
    [answer] = client.answers(scope)
    assert list(answer.wordings) == prompts[1:]
    assert answer.verdicts_right > 1
    said = run(server, scope, "show", answer.entry_id)
    assert "\n".join(["asked as", *prompts, "", "answer", "Use the link."]) in said
    assert f"right {answer.verdicts_right:.1f}, wrong 0.0" in said
    assert f"{prompts[0]} (and 2 more)" in run(server, scope, "list")
    run(server, scope, "export", tmp_path / "answers.jsonl")
    other = f"{scope}-other"
    assert run(server, other, "import", tmp_path / "answers.jsonl") == "1 answer stored, 0 in place of others\n"
    [copy] = client.answers(other)
    assert list(copy.wordings) == prompts[1:]
    for prompt in prompts:
        found = client.decide(prompt, other).answer
        assert (found.content, found.match) == ("Use the link.", types_pb2.MATCH_EXACT)
    assert run(server, other, "invalidate", "--entry", copy.entry_id, "--yes") == "1 answer removed\n"
    for prompt in prompts:
        assert client.decide(prompt, other, cache=types_pb2.CacheControl(error_budget=0)).plan.steps


def test_an_export_that_fails_leaves_nothing_behind(server: Server, filled: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    run(server, filled, "export", path)
    before = path.read_text(encoding="utf-8")
    nowhere = ("--address", "127.0.0.1:1", "--timeout", "2")
    assert run_waypost("cache", "export", path, "--overwrite", *nowhere).returncode == 1
    assert run_waypost("cache", "export", tmp_path / "new.jsonl", *nowhere).returncode == 1
    assert path.read_text(encoding="utf-8") == before
    assert [one.name for one in tmp_path.iterdir()] == ["answers.jsonl"]
    assert "cannot be read" in run(server, filled, "import", tmp_path / "none.jsonl", code=1)


def test_an_export_takes_no_device_s_place(server: Server, filled: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is no file" in run(server, filled, "export", pipe, "--overwrite", code=1)
    assert pipe.is_fifo()


def test_an_empty_scope_says_so(server: Server, scope: str) -> None:
    done = run_waypost("cache", "list", "--address", server.address, "--scope", scope)
    assert (done.stdout, done.stderr) == ("", "no answers in this scope\n")


def test_wordings_that_may_not_be_stored_are_named(client: Client, scope: str) -> None:
    for wordings, field in ((["  "], "wordings[0]"), (["ask jane@example.com"], "wordings"), (["x"] * 65, "wordings")):
        found = refusal(partial(client.put, "Whom do I write to?", "To us.", scope, wordings=wordings))
        assert found.fields == (field,)
    assert not client.answers(scope)


def test_a_line_that_is_wrong_is_named_and_can_be_skipped(
    server: Server, client: Client, filled: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    run(server, filled, "export", path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[0]["expires_at"] = 1.0
    rows[1]["chunk_bytes"] = [1]
    rows += [
        {"prompt": "only this"},
        {**rows[2], "answer": "write to jane@example.com"},
        {**rows[2], "prompt": "Really?"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n", encoding="utf-8")
    other = f"{filled}-other"
    assert f"{path}:2: chunk_bytes" in run(server, other, "import", path, code=1)
    said = run(server, other, "import", path, "--skip")
    assert said == "2 answers stored, 0 in place of others, 1 had lapsed, 4 were skipped\n"
    assert len(client.answers(other)) == 2


OF_ANOTHER_KIND = [
    ("expires_at", "tomorrow"),
    ("expires_at", 10**400),
    ("source_tags", "doc"),
    ("source_tags", [1]),
    ("wordings", "Where?"),
    ("chunk_bytes", 5),
    ("chunk_bytes", [-1, 12]),
    ("exact_only", "false"),
]


def test_lines_of_another_kind_are_named_and_can_be_skipped(server: Server, filled: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    run(server, filled, "export", path)
    first, *others = path.read_text(encoding="utf-8").splitlines()
    wrong = [json.dumps({**json.loads(first), field: value}) for field, value in OF_ANOTHER_KIND]
    lines = [others[0], "", *wrong, "[" * 100_000, *others[1:]]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\n\xff\n")
    said = run_waypost("cache", "import", path, "--skip", "--address", server.address, "--scope", f"{filled}-other")
    assert said.stdout == "2 answers stored, 0 in place of others, 10 were skipped\n"
    told = [line.partition(f"{path}:")[2] for line in said.stderr.splitlines()]
    for number, ((field, _), line) in enumerate(zip(OF_ANOTHER_KIND, told, strict=False), 3):
        assert line.startswith(f"{number}: {field}: not ")


def test_what_is_one_token_s_own_is_not_exported(starter_index: Path, tmp_path: Path) -> None:
    tokens = {"ann": ("shop", ""), "bob": ("shop", ""), "boss": ("*", "admin = true\n")}
    settings = "".join(
        f'[auth.tokens.{name}]\ntoken = "{name}-0123456789abcdef"\nscopes = ["{scope}"]\n{admin}'
        for name, (scope, admin) in tokens.items()
    )
    with serving(starter_index, tmp_path, settings) as server:
        by = {name: Client(server.address, f"{name}-0123456789abcdef") for name in tokens}
        by["ann"].put("Where is my parcel?", "On its way.", "shop")
        by["boss"].put("Do you ship abroad?", "Yes.", "shop")
        assert by["bob"].decide("Where is my parcel?", "shop").WhichOneof("outcome") == "plan"
        command = [sys.executable, "-m", "service.cli", "cache", "export", "-", "--address", server.address]
        done = subprocess.run(
            [*command, "--scope", "shop", "--token", "boss-0123456789abcdef"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert [json.loads(line)["answer"] for line in done.stdout.splitlines()] == ["Yes."]
        listed = run_waypost(
            "cache", "list", "--address", server.address, "--scope", "shop", "--token", "boss-0123456789abcdef"
        )
        assert "Where is my parcel? (only ann)" in listed.stdout
        assert done.stderr == "1 answer written, 1 private ones left out\n"
        for client in by.values():
            client.close()


def test_a_service_that_is_not_there_is_named() -> None:
    done = run_waypost("cache", "list", "--address", "127.0.0.1:1", "--timeout", "2")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
