"""A cascade on the real server: fitted with the command, planned, reviewed, reported, and seen in the metrics."""

import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, types_pb2

from tests.conftest import ROOT, Server, run_waypost
from tests.e2e.kit import Client, metrics_address, serving
from tests.index.answers import sums
from tests.service.kit import MODELS

SETTINGS = "[review]\naccuracy = 0.9\n"
CASCADE = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_CASCADE, min_quality=0.8, allow_models=["small", "large"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, references on sums, and answers with outcomes."""
    folder = tmp_path_factory.mktemp("cascade")
    (folder / "models.toml").write_text(MODELS, encoding="utf-8")
    luck = random.Random(3)
    references = [
        {
            "id": f"r{i}",
            "prompt": f"Please add up {luck.randint(2, 99)} apples and {luck.randint(2, 99)} pears ({i})",
            "scores": {"small": float(luck.random() < 0.65), "medium": float(luck.random() < 0.75), "large": 1.0},
        }
        for i in range(120)
    ]
    answers = [{"prompt": a.prompt, "answer": a.answer, "model": a.model, "correct": int(a.correct)} for a in sums(300)]
    for name, rows in (("references", references), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = build(folder, "--answers", str(folder / "answers.jsonl"))
    assert "acceptor from 300 answers: tells right from wrong with AUC 0." in done
    return folder


def build(folder: Path, *arguments: str) -> str:
    paths = ("--references", folder / "references.jsonl", "--models", folder / "models.toml", "--output")
    done = run_waypost("build-index", *paths, folder / "index", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Server]:
    with serving(folder / "index", folder / "data", SETTINGS) as server:
        yield server


@pytest.fixture
def client(own: Server) -> Iterator[Client]:
    found = Client(own.address)
    yield found
    found.close()


def test_a_cascade_is_planned_reviewed_and_reported(own: Server, client: Client) -> None:
    decision = client.decide("What is 7 plus 8?", route=CASCADE, explain=True)
    plan = decision.plan
    assert plan.shape == types_pb2.PLAN_SHAPE_CASCADE
    assert [step.model for step in plan.steps][:2] == ["small-1", "large-1"]
    assert 0 < plan.steps[0].accept_at < 1
    assert not plan.steps[1].HasField("accept_at")
    assert any(note.note.startswith("cascade of 2: expected quality") for note in decision.explanation.notes)

    wrong = client.review(decision, "7 + 8 = 16")
    assert (wrong.verdict, wrong.next_model) == (types_pb2.VERDICT_ESCALATE, "large-1")
    right = client.review(decision, "7 + 8 = 15", model="large")
    assert (right.verdict, right.next_model) == (types_pb2.VERDICT_ACCEPT, "")
    assert right.p_acceptable > 0.7
    assert wrong.p_acceptable < 0.4
    assert client.report(decision, "7 + 8 = 15", model="large", quality=1.0).stored

    stats = client.admin.GetStats(admin_pb2.GetStatsRequest())
    assert (stats.reviews, stats.reviews_escalated, stats.accepts_judged, stats.false_accepts) == (2, 1, 1, 0)
    with urllib.request.urlopen(f"http://{metrics_address(own)}/metrics") as response:
        text = response.read().decode()
    assert 'waypost_reviews_total{failure="",verdict="escalate"} 1.0' in text
    assert 'waypost_accepts_judged_total{right="yes"} 1.0' in text


def test_a_cascade_that_was_begun_before_a_restart_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "index", tmp_path, SETTINGS + "[journal]\nprompts = true\n") as server:
        client = Client(server.address)
        decision = client.decide("What is 21 plus 8?", route=CASCADE)
        assert decision.plan.shape == types_pb2.PLAN_SHAPE_CASCADE
        client.close()
    with serving(folder / "index", tmp_path, SETTINGS) as server:
        client = Client(server.address)
        wrong = client.review(decision, "21 + 8 = 30")
        assert (wrong.verdict, wrong.next_model) == (types_pb2.VERDICT_ESCALATE, "large-1")
        assert client.review(decision, "21 + 8 = 29", model="large").p_acceptable > 0.7
        client.report(decision, "", fill_token="", model="large", quality=0.0)
        assert client.admin.GetStats(admin_pb2.GetStatsRequest()).false_accepts == 1
        client.close()


def test_answers_that_are_wrong_stop_the_build_and_name_the_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "a", "answer": "b", "model": "smal", "correct": 1}\n', encoding="utf-8")
    arguments = ("--references", folder / "references.jsonl", "--models", folder / "models.toml")
    done = run_waypost("build-index", *arguments, "--output", tmp_path / "index", "--answers", path)
    assert done.returncode == 1
    assert f"{path}:1: model: the catalogue has no model 'smal'; did you mean 'small'?" in done.stderr
    assert not (tmp_path / "index").exists()


def follow(own: Server, prompt: str, *arguments: str) -> list[dict[str, Any]]:
    """Run the example and return the steps it printed."""
    command = [sys.executable, str(ROOT / "examples" / "python" / "cascade.py"), own.address, prompt, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(steps: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [step for step in steps if step["step"] == kind]


def test_the_example_follows_a_cascade_and_goes_on_where_the_review_says_so(own: Server) -> None:
    arguments = ("--shape", "cascade", "--min-quality", "0.8")
    right = follow(own, "What is 11 plus 8?", *arguments, "--first-answer", "11 + 8 = 19")
    assert of(right, "decide")[0]["shape"] == "PLAN_SHAPE_CASCADE"
    assert [step["model"] for step in of(right, "start")] == ["small-1"]
    assert of(right, "answer")[0] == {"step": "answer", "model": "small-1", "content": "11 + 8 = 19"}
    assert of(right, "report")[0]["stored"]
    wrong = follow(own, "What is 12 plus 9?", *arguments, "--first-answer", "12 + 9 = 22")
    assert of(wrong, "review")[0]["verdict"] == "VERDICT_ESCALATE"
    assert [step["model"] for step in of(wrong, "start")][1] == of(wrong, "review")[0]["next_model"]


def test_the_example_starts_two_at_once(own: Server) -> None:
    steps = follow(own, "What is 13 plus 9?", "--shape", "speculative", "--min-quality", "0.8", "--first-answer", "")
    assert of(steps, "decide")[0]["shape"] == "PLAN_SHAPE_SPECULATIVE"
    assert len(of(steps, "start")) == 2
    assert steps.index(of(steps, "start")[1]) < steps.index(of(steps, "call")[0])
    assert of(steps, "answer")[0]["model"] == of(steps, "start")[1]["model"]


def test_the_example_lets_an_ensemble_vote(own: Server) -> None:
    steps = follow(own, "What is 14 plus 9?", "--shape", "ensemble", "--first-answer", "Something else.")
    assert of(steps, "decide")[0]["shape"] == "PLAN_SHAPE_ENSEMBLE"
    assert sorted(map(len, of(steps, "vote")[0]["groups"])) == [1, 2]
    assert of(steps, "answer")[0]["content"].endswith("known to all of us.")
