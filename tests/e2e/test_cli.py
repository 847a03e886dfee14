"""The command line: what it prints, what it exits with, and what it says when something is wrong."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from waypost.v1 import router_pb2

from tests.conftest import ROOT, Server, run_waypost
from tests.e2e.kit import Client, serving

COMMANDS = ["", "serve", "build-index", "decide", "check", "import", "export-encoder", "evaluate"]
MODELS = "reference_prompts/models.toml"


def failed(*arguments: str | Path, code: int = 1, env: dict[str, str] | None = None) -> str:
    """Return what a command that fails says."""
    done = run_waypost(*arguments, env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr
    return done.stderr


def done(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Return what a command that succeeds prints."""
    found = run_waypost(*arguments, env=env)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert "Usage" in done(*command.split(), "--help")


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert done("--version") == f"waypost {project['version']}\n"


def test_an_unknown_command_or_option_is_told_apart_from_a_failure() -> None:
    assert "No such command" in failed("guess", code=2)
    assert "No such option" in failed("serve", "--gues", code=2)
    assert "Missing option" in failed("build-index", code=2)


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "0", "1e9"])
@pytest.mark.parametrize("command", ["decide hello", "stats", "cache list", "replay"])
def test_a_time_that_no_call_can_be_given_is_refused_by_name(command: str, timeout: str) -> None:
    told = failed(*command.split(), "--timeout", timeout, code=2)
    assert "--timeout" in told
    assert "expected seconds, above 0" in told


# ---- decide -----------------------------------------------------------------------------------------------------


def test_a_plan_is_printed_for_people(server: Server, scope: str) -> None:
    said = done("decide", "--address", server.address, "--scope", scope, "Write a haiku about rain")
    lines = said.splitlines()
    assert lines[0].startswith("decision   ")
    assert lines[1].startswith("call ")
    assert any(line.startswith("because    ") for line in lines)
    assert not any(line.startswith("neighbour ") for line in lines)
    explained = done("decide", "--address", server.address, "--scope", scope, "--explain", "Write a haiku about rain")
    assert "\nneighbour  " in explained
    assert "\nexpects    " in explained


def test_the_policy_s_part_in_a_plan_is_printed_for_people(starter_index: Path, tmp_path: Path) -> None:
    rule = """[[policy.rules]]
name = "in two steps"
shape = "cascade"
[[policy.experiments]]
name = "trial"
arms = [{name = "all", share = 1.0}]
"""
    with serving(starter_index, tmp_path, rule) as server:
        hard = "Prove that the square root of two is irrational, then generalise the proof to every prime."
        said = done("decide", "--address", server.address, "--explain", hard)
        lines = said.splitlines()
        assert "rule       in two steps" in lines
        assert "arm        trial/all" in lines
        assert any(line.startswith("choose     cascade of 2: expected quality") for line in lines)
        assert "shape      cascade" in lines
        assert "enough from a score of 0." in lines[1]
        client = Client(server.address)
        response = client.decide(hard, explain=True)
        client.close()
    assert f"{response.plan.steps[0].model} " in lines[1]


def test_a_cached_answer_is_printed_for_people(server: Server, client: Client, scope: str) -> None:
    client.put("What is it?", "It is Canberra.\nReally.", scope, model="m")
    said = done("decide", "--address", server.socket, "--scope", scope, "What is it?")
    assert "cached     exact hit, cosine 1.000, answered by m" in said
    assert "It is Canberra.\nReally." in said


def test_the_response_is_printed_as_json(server: Server, scope: str) -> None:
    said = done("decide", "--address", server.address, "--scope", scope, "--json", "Écris un haïku 👍")
    response = Parse(said, router_pb2.DecideResponse())
    assert response.plan.steps
    assert "decision_id" in json.loads(said)


def test_a_prompt_may_come_from_standard_input(server: Server, client: Client, scope: str) -> None:
    client.put("one\ntwo", "yes", scope)
    found = subprocess.run(
        [sys.executable, "-m", "service.cli", "decide", "--address", server.address, "--scope", scope, "-"],
        cwd=ROOT,
        input="one\r\ntwo\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "cached" in found.stdout


def test_what_the_service_refuses_is_said_and_no_traceback(server: Server) -> None:
    assert "INVALID_ARGUMENT: prompt: empty" in failed("decide", "--address", server.address, " ")
    assert "INVALID_ARGUMENT: scope" in failed("decide", "--address", server.address, "--scope", "a b", "x")
    assert "UNAVAILABLE" in failed("decide", "--address", "127.0.0.1:1", "--timeout", "5", "x")
    for command in (("decide", "x"), ("replay",), ("cache", "list")):
        said = failed(*command, "--address", "127.0.0.1:1", "--timeout", "5")
        assert "127.0.0.1:1: " in said
        assert "start it with `waypost serve`" in said
        assert "--token: only printable ASCII" in failed(*command, "--address", server.address, "--token", "pässword")


def test_a_prompt_that_is_no_text_is_refused_and_no_traceback(server: Server) -> None:
    command = [sys.executable, "-m", "service.cli", "decide", "--address", server.address]
    for argument, given in ((b"caf\xe9", b""), (b"-", b"caf\xe9")):
        found = subprocess.run([*command, argument], input=given, capture_output=True, cwd=ROOT, check=False)
        assert found.returncode == 1
        assert found.stderr.startswith(b"error: what was given is not UTF-8 text")
        assert b"Traceback" not in found.stderr


def test_the_call_to_try_can_be_copied_whatever_the_path(starter_index: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/my sockets/s"
    arguments = ["serve", "--index", str(starter_index), "--data-dir", str(tmp_path), "--listen", address]
    environment = {**os.environ, "WAYPOST_SERVER__METRICS_LISTEN": ""}
    command = [sys.executable, "-m", "service.cli", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == f"waypost is ready on {address}\n"
        _, *words = shlex.split(process.stdout.readline())
        assert words[:4] == ["waypost", "decide", "--address", address]
        done(*words[1:])
        process.terminate()


def test_no_proxy_of_the_environment_comes_between(server: Server, scope: str) -> None:
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "no_proxy"), "http://127.0.0.1:1")
    at = ("--address", server.address)
    done("decide", *at, "--scope", scope, "Where is my parcel?", env=proxy)
    done("cache", "list", *at, "--scope", scope, env=proxy)
    done("stats", *at, env=proxy)
    health = [sys.executable, "deploy/health.py", server.address]
    subprocess.run(health, cwd=ROOT, env={**os.environ, **proxy}, check=True, timeout=60)


def test_a_token_may_come_from_the_environment(starter_index: Path, tmp_path: Path) -> None:
    token = "x" * 20
    with serving(starter_index, tmp_path, f"[auth.tokens.me]\ntoken = '{token}'\nscopes = ['default']\n") as server:
        assert server.process.stdout is not None
        call = server.process.stdout.readline()
        assert call.startswith("try: WAYPOST_TOKEN=… ")
        assert f"decide --address {server.address} --scope default " in call
        assert "UNAUTHENTICATED" in failed("decide", "--address", server.address, "hello")
        assert "decision" in done("decide", "--address", server.address, "hello", env={"WAYPOST_TOKEN": token})
        assert "PERMISSION_DENIED" in failed(
            "decide", "--address", server.address, "--scope", "other", "--token", token, "hello"
        )


# ---- build-index and import -------------------------------------------------------------------------------------


def rows(path: Path, *prompts: str, **more: Any) -> Path:
    lines = [{"id": f"r{i}", "prompt": prompt, "best_model": "small", **more} for i, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def build(references: Path, output: Path, *more: str) -> tuple[str | Path, ...]:
    return ("build-index", "--references", references, "--models", MODELS, "--output", output, *more)


def test_a_rebuild_says_how_much_was_kept(tmp_path: Path) -> None:
    first = done(*build(rows(tmp_path / "a.jsonl", "one", "two", "three"), tmp_path / "index"))
    assert "3 references, 3 embedded, 0 reused" in first
    second = done(*build(rows(tmp_path / "a.jsonl", "one", "two", "four", "five"), tmp_path / "index"))
    assert "4 references, 2 embedded, 2 reused" in second
    again = done(*build(tmp_path / "a.jsonl", tmp_path / "index"))
    assert "4 references, 0 embedded, 4 reused" in again
    assert second.split()[1] == again.split()[1], "the same input gives the same generation"


def test_a_prompt_beyond_the_window_is_mentioned(tmp_path: Path) -> None:
    said = done(*build(rows(tmp_path / "a.jsonl", "short", "a long prompt " * 200), tmp_path / "index"))
    assert "1 prompts are longer than the encoder's window" in said


def test_wrong_rows_are_named_and_leave_the_old_index_or_are_left_out(tmp_path: Path) -> None:
    done(*build(rows(tmp_path / "a.jsonl", "one"), tmp_path / "index"))
    before = (tmp_path / "index" / "CURRENT").read_text()
    with (tmp_path / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "x", "prompt": "p", "best_model": "nobody"}\nnot json\n')
    said = failed(*build(tmp_path / "a.jsonl", tmp_path / "index"))
    assert "a.jsonl:2" in said
    assert "a.jsonl:3" in said
    assert (tmp_path / "index" / "CURRENT").read_text() == before
    found = run_waypost(*build(tmp_path / "a.jsonl", tmp_path / "index", "--on-error", "skip"))
    assert found.returncode == 0
    assert "1 references" in found.stdout
    assert "2 rows were left out" in found.stderr


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    sound = rows(tmp_path / "a.jsonl", "one")
    assert str(tmp_path / "none.jsonl") in failed(*build(tmp_path / "none.jsonl", tmp_path / "index"))
    (tmp_path / "empty.jsonl").touch()
    assert "no references" in failed(*build(tmp_path / "empty.jsonl", tmp_path / "index"))
    said = failed("build-index", "--references", sound, "--models", tmp_path / "none.toml", "--output", tmp_path / "i")
    assert str(tmp_path / "none.toml") in said
    assert "encoder" in failed(*build(sound, tmp_path / "index", "--encoder", str(tmp_path)))
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = failed(*build(rows(tmp_path / "a.jsonl", "one"), tmp_path / "file"))
    assert f"{tmp_path / 'file'}: no folder can be made here (File exists); name another" in said


def test_several_references_may_follow_one_option(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"id": name, "prompt": name, "best_model": "small"}) + "\n", encoding="utf-8")
    a, b, c = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "c"))
    rest = ("--models", MODELS, "--output", tmp_path / "index")
    assert "3 references" in done("build-index", "--references", a, b, *rest, "--references", c)
    assert "2 references" in done("build-index", f"--references={a}", b, *rest)
    assert "extra argument" in failed("build-index", "--references", a, *rest, b, code=2)


def test_every_row_that_is_left_out_is_listed(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": f"r{i}", "prompt": "p", "best_model": "small" if i == 30 else "nobody"}) for i in range(31)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = run_waypost(*build(tmp_path / "a.jsonl", tmp_path / "index", "--on-error", "skip"))
    assert found.stderr.count("skipped: ") == 30
    assert "30 rows were left out" in found.stderr


def test_a_table_becomes_references_that_an_index_is_built_from(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("question,best_model\nwhat is it,small\nprove it,large\n", encoding="utf-8")
    where = ("--output", tmp_path / "out.jsonl", "--models", MODELS)
    said = done("import", tmp_path / "in.csv", "--column", "prompt=question", *where)
    assert "2 references from 2 rows" in said
    assert "2 references" in done(*build(tmp_path / "out.jsonl", tmp_path / "index"))
    assert "exists already" in failed("import", tmp_path / "in.csv", "--column", "prompt=question", *where)
    assert "NAME=COLUMN" in failed("import", tmp_path / "in.csv", "--column", "question", *where, code=2)
    assert "LOW,HIGH" in failed("import", tmp_path / "in.csv", "--scale", "much", *where, code=2)


# ---- serve and check --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "{}/none.toml"], "{}/none.toml: no such file"),
        (["--config", "{}/wrong.toml"], "wrong.toml: cache.threshold"),
        (["--listen", "nowhere"], "server.listen"),
        (["--listen", "unix:"], "server.listen"),
        (
            ["--listen", "256.1.1.1:1"],
            "cannot listen on 256.1.1.1:1 ([Errno -2] Name or service not known); name another",
        ),
        (["--listen", "192.0.2.1:0"], "192.0.2.1:0 ([Errno 99] Cannot assign requested address); name another address"),
        (["--listen", "unix:{0}"], "([Errno 17] what stands there is no socket); name another address"),
        (["--index", "{}"], "waypost build-index"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "wrong.toml").write_text("[cache]\nthreshold = 2\n")
    given = [argument.format(tmp_path) for argument in arguments]
    if "--listen" not in given:
        given += ["--listen", "127.0.0.1:0"]
    said = failed("serve", "--data-dir", tmp_path, *given, env={"WAYPOST_SERVER__METRICS_LISTEN": ""})
    assert named.format(tmp_path) in said


def test_a_data_folder_that_cannot_be_made_is_said(starter_index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = ("--index", starter_index, "--data-dir", tmp_path / "file", "--listen", "127.0.0.1:0")
    said = failed("serve", *where, env={"WAYPOST_SERVER__METRICS_LISTEN": ""})
    assert str(tmp_path / "file") in said
    found = run_waypost("check", *where[:4])
    assert found.returncode == 1
    assert f"{tmp_path / 'file'} is not a folder" in found.stdout


def test_a_log_without_its_store_is_said_at_the_start_and_by_check(starter_index: Path, tmp_path: Path) -> None:
    (tmp_path / "waypost.sqlite3-wal").write_bytes(b"what a store left")
    where = ("--index", starter_index, "--data-dir", tmp_path)
    said = failed("serve", *where, "--listen", "127.0.0.1:0", env={"WAYPOST_SERVER__METRICS_LISTEN": ""})
    found = run_waypost("check", *where)
    assert found.returncode == 1
    for text in (said, found.stdout):
        assert "waypost.sqlite3 is missing, but its log waypost.sqlite3-wal is there" in text


def test_a_store_that_is_none_is_said_at_the_start_and_by_check(starter_index: Path, tmp_path: Path) -> None:
    (tmp_path / "waypost.sqlite3").write_text("this is no database, whatever its name says" * 100)
    where = ("--index", starter_index, "--data-dir", tmp_path)
    said = failed("serve", *where, "--listen", "127.0.0.1:0", env={"WAYPOST_SERVER__METRICS_LISTEN": ""})
    assert "waypost.sqlite3" in said
    found = run_waypost("check", *where)
    assert found.returncode == 1
    assert "waypost.sqlite3" in found.stdout


def test_check_says_of_a_damaged_policy_state_that_it_will_be_put_aside(starter_index: Path, tmp_path: Path) -> None:
    where = ("--index", starter_index, "--data-dir", tmp_path)
    path = tmp_path / "policy.sqlite3"
    assert f"{path} (not there yet)" in done("check", *where)
    path.write_text("this is no database, whatever its name says" * 100)
    said = done("check", *where)
    assert f"{path} (damaged, file is not a database: the start puts it aside" in said
    assert list(tmp_path.glob("policy*")) == [path], "looked at, and left as it was"


def test_check_finds_nothing_wrong_where_nothing_is(starter_index: Path, tmp_path: Path, server: Server) -> None:
    where = ("--index", starter_index, "--data-dir", tmp_path)
    said = done("check", *where, "--references", "reference_prompts/starter", "--models", MODELS)
    assert said.count("ok") >= 6
    assert not any(line.strip().startswith("wrong") for line in said.splitlines())
    assert "in use" in done("check", "--index", starter_index, "--data-dir", server.data_dir)


def test_check_names_everything_that_is_wrong(starter_index: Path, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[[models]]\nid = 'x'\n")
    rows(tmp_path / "rows.jsonl", "one")
    where = ("--index", tmp_path / "none", "--data-dir", tmp_path)
    found = run_waypost("check", *where, "--references", tmp_path / "rows.jsonl", "--models", tmp_path / "models.toml")
    assert found.returncode == 1
    assert found.stdout.count("wrong") >= 2
    assert "waypost build-index" in found.stdout
    assert "models.toml" in found.stdout
    (tmp_path / "waypost.toml").write_text("[cache]\nthreshold = 2\ntreshold = 1\n")
    found = run_waypost("check", "--config", tmp_path / "waypost.toml", "--index", starter_index)
    assert found.returncode == 1
    assert "\n       " + f"{tmp_path / 'waypost.toml'}: cache.threshold" in found.stdout
    assert "cache.treshold" in found.stdout


@pytest.mark.parametrize("setting", ["routing.fallback", "stats.baseline"])
def test_check_names_the_setting_that_names_no_model(starter_index: Path, tmp_path: Path, setting: str) -> None:
    name = "WAYPOST_" + setting.upper().replace(".", "__")
    found = run_waypost("check", "--index", starter_index, "--data-dir", tmp_path, env={name: "nobody"})
    assert found.returncode == 1
    assert f"{setting}: the catalogue has no model 'nobody'" in found.stdout


def test_check_names_a_damaged_encoder(starter_index: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "encoders" / "all-MiniLM-L6-v2", tmp_path / "encoder")
    with (tmp_path / "encoder" / "tokenizer.json").open("a") as file:
        file.write(" ")
    found = run_waypost(
        "check",
        "--index",
        starter_index,
        "--data-dir",
        tmp_path,
        env={"WAYPOST_ENCODER__PATH": str(tmp_path / "encoder")},
    )
    assert found.returncode == 1
    assert "tokenizer.json is not the file that encoder.json describes" in found.stdout
