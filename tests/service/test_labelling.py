"""Labels where there are none: against a real HTTP server that speaks the protocol, and not always well."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.errors import InputError
from index.references import read_references
from service.labelling.endpoints import read_endpoints
from service.labelling.label import Labelled, label
from service.labelling.results import read_prompts, results_in, to_references
from service.labelling.scores import contains, exact, judge_messages, judged, last_number
from tests.conftest import ROOT, run_waypost
from tests.service.kit import MODELS, catalogue

QUESTIONS = [{"id": f"q{i}", "prompt": f"What is {i} plus {i}?", "expected": str(2 * i)} for i in range(8)]


@dataclass
class Provider:
    """What the server was asked, and how it behaves: `faults` are answered instead, one a request, per model."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, list[Callable[[Any], None]]] = field(default_factory=dict)
    always: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    delay_s: float = 0.0
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    def calls(self, model: str) -> Counter[str]:
        return Counter(str(one["messages"][-1]["content"]) for one in self.asked if one["model"] == model)


def reply(handler: Any, code: int, body: object, **headers: str) -> None:
    raw = json.dumps(body).encode()
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


def completion(content: object, tokens: int = 10) -> dict[str, object]:
    usage = {"prompt_tokens": 100, "completion_tokens": tokens}
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage}


def answer_of(body: dict[str, Any]) -> str:
    text = str(body["messages"][-1]["content"])
    if body["model"] == "judge":
        return "score: 3" if "I do not know" in text else "score: 9"
    number = int(text.split()[2])
    return f"It is {2 * number}." if body["model"] == "large" else "I do not know."


@pytest.fixture
def provider() -> Iterator[Provider]:
    given = Provider()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                given.asked.append({**body, "key": self.headers.get("authorization")})
                given.at_once += 1
                given.most_at_once = max(given.most_at_once, given.at_once)
                fault = given.faults[body["model"]].pop(0) if given.faults.get(body["model"]) else None
            try:
                time.sleep(given.delay_s)
                fault = fault or given.always.get(body["model"])
                if fault is not None:
                    fault(self)
                else:
                    reply(self, 200, completion(answer_of(body)))
            except BrokenPipeError:
                pass
            finally:
                with lock:
                    given.at_once -= 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    given.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield given
    server.shutdown()
    thread.join()
    server.server_close()


def hang_up(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.close()


class Job:
    """The files of one job."""

    def __init__(self, root: Path, provider: Provider, *, judge: bool = False, more: str = "") -> None:
        self.root, self.provider = root, provider
        self.prompts, self.models, self.endpoints = root / "p.jsonl", root / "models.toml", root / "e.toml"
        self.prompts.write_text("\n".join(map(json.dumps, QUESTIONS)))
        self.models.write_text(MODELS)
        text = "".join(
            f'[[endpoints]]\nmodel = "{name}"\nname = "{name}"\nbase_url = "{provider.url}"\nbackoff_s = 0.001\n'
            f'api_key_env = "TEST_KEY"\nmax_tokens = 20\n{more}'
            for name in ("small", "large")
        )
        if judge:
            text += f'[judge]\nmodel = "medium"\nname = "judge"\nbase_url = "{provider.url}"\nbackoff_s = 0.001\n'
        self.endpoints.write_text(text)
        self.results = root / "results.jsonl"

    async def run(self, scoring: str = "contains", budget: float = 1.0) -> Labelled:
        endpoints, judge = read_endpoints(self.endpoints, catalogue(), {"TEST_KEY": "sesame"})
        with results_in(self.results) as results:
            return await label(read_prompts([self.prompts]), endpoints, judge, scoring, results, budget)

    def scores(self) -> dict[tuple[str, str], float]:
        with results_in(self.results) as results:
            return results.scores

    def spent(self) -> float:
        with results_in(self.results) as results:
            return results.spent


async def test_every_model_is_asked_once_and_scored_against_what_is_expected(
    tmp_path: Path, provider: Provider
) -> None:
    job = Job(tmp_path, provider)
    done = await job.run()
    assert (done.asked, done.scored, done.failed, done.left, done.stopped) == (16, 16, 0, 0, "")
    assert {call: score for call, score in job.scores().items() if call[1] == "small-1"} == {
        (f"q{i}", "small-1"): 0.0 for i in range(8)
    }
    assert sum(job.scores().values()) == 8
    assert set(provider.calls("large").values()) == {1}
    assert {one["key"] for one in provider.asked} == {"Bearer sesame"}
    assert job.spent() == pytest.approx(8 * (100 * 0.1 + 10 * 0.5 + 100 * 4 + 10 * 20) / 1e6)
    assert (await job.run()).asked == 0
    assert len(provider.asked) == 16
    with results_in(job.results) as results:
        references = to_references(read_prompts([job.prompts]), results, "label")
    assert references[3].scores == {"small-1": 0.0, "large-1": 1.0}
    assert references[3].costs["large-1"] == pytest.approx(600 / 1e6)
    assert b"sesame" not in job.results.read_bytes()


async def test_other_scoring_scores_again_and_another_question_is_asked_again(
    tmp_path: Path, provider: Provider
) -> None:
    job = Job(tmp_path, provider)
    await job.run("contains")
    done = await job.run("exact")
    assert (done.asked, done.scored, done.left) == (0, 16, 0)
    rows = [dict(question) for question in QUESTIONS]
    rows[2]["prompt"] += " And why?"
    rows[3]["expected"] = "something else"
    job.prompts.write_text("\n".join(map(json.dumps, rows)))
    done = await job.run("exact")
    assert (done.asked, done.scored) == (2, 4)
    assert job.scores()["q3", "large-1"] == 0.0
    assert (await job.run("exact")).scored == 0


async def test_a_judge_scores_and_is_paid(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider, judge=True)
    done = await job.run("judge")
    assert done.scored == 16
    assert set(job.scores().values()) == {0.3, 0.9}
    assert job.spent() == pytest.approx((8 * (15 + 600) + 16 * (100 * 1 + 10 * 5)) / 1e6)


async def test_an_answer_that_was_paid_is_only_scored_when_the_judge_was_away(
    tmp_path: Path, provider: Provider
) -> None:
    job = Job(tmp_path, provider, judge=True)
    provider.always["judge"] = lambda handler: reply(handler, 401, {})
    done = await job.run("judge")
    assert "401" in done.refused["judge"]
    paid = sum(provider.calls("small").values())
    del provider.always["judge"]
    assert (await job.run("judge")).left == 0
    assert set(provider.calls("small").values()) == {1}
    assert 0 < paid <= 8


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda handler: reply(handler, 200, completion("Good work!")), "gave no score: Good work!"),
        (lambda handler: reply(handler, 400, {}), "HTTP 400"),
    ],
)
async def test_a_judge_that_gives_no_scores_is_not_paid_for_ever_and_is_named(
    tmp_path: Path, provider: Provider, how: Callable[[Any], None], why: str
) -> None:
    job = Job(tmp_path, provider, judge=True)
    rows = [{"id": f"q{i}", "prompt": f"What is {i} plus {i}?"} for i in range(40)]
    job.prompts.write_text("\n".join(map(json.dumps, rows)))
    provider.always["judge"] = how
    done = await job.run("judge")
    assert set(done.refused) == {"judge"}
    assert why in done.refused["judge"]
    assert sum(provider.calls("judge").values()) < 20
    assert sum(provider.calls("small").values()) < 20
    del provider.always["judge"]
    assert (await job.run("judge")).left == 0


async def test_rate_limits_errors_and_hang_ups_are_tried_again(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider)
    provider.faults["small"] = [
        lambda handler: reply(handler, 429, {}, retry_after="0.01"),
        lambda handler: reply(handler, 429, {}, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
        lambda handler: reply(handler, 503, {}),
        hang_up,
    ]
    done = await job.run()
    assert (done.scored, done.failed) == (16, 0)
    assert sum(provider.calls("small").values()) == 12


async def test_what_fails_for_good_leaves_a_hole_and_is_tried_by_the_next_run(
    tmp_path: Path, provider: Provider
) -> None:
    job = Job(tmp_path, provider)
    provider.faults["small"] = [
        lambda handler: reply(handler, 400, {"error": "content policy"}),
        lambda handler: reply(handler, 200, {"choices": []}),
        lambda handler: reply(handler, 200, completion(["no", "text"])),
    ]
    done = await job.run()
    assert (done.failed, done.left) == (3, 3)
    assert len(job.scores()) == 13
    assert (await job.run()).left == 0
    assert len(job.scores()) == 16


async def test_an_endpoint_that_refuses_is_left_out_and_the_others_go_on(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider)
    provider.always["small"] = lambda handler: reply(handler, 401, {"error": "sesame is no key"})
    done = await job.run()
    assert "look at TEST_KEY" in done.refused["small-1"]
    assert "sesame" not in done.refused["small-1"]
    assert (done.scored, done.left) == (8, 8)
    assert sum(provider.calls("small").values()) <= 4


async def test_an_endpoint_that_only_fails_is_given_up(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider, more="concurrency = 1\n")
    rows = [{"id": f"q{i}", "prompt": f"What is {i} plus {i}?", "expected": str(2 * i)} for i in range(40)]
    job.prompts.write_text("\n".join(map(json.dumps, rows)))
    provider.always["small"] = lambda handler: reply(handler, 400, {})
    done = await job.run()
    assert "failures in a row" in done.refused["small-1"]
    assert sum(provider.calls("small").values()) < 20
    assert done.scored == 40


async def test_nothing_is_begun_that_might_overrun_the_budget(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider)
    budget = 0.004
    done = await job.run(budget=budget)
    assert done.stopped == "the budget is spent"
    assert 0 < done.left < 16
    spent = job.spent()
    assert 0 < spent <= budget
    asked = len(provider.asked)
    assert (await job.run(budget=spent)).asked == 0
    assert len(provider.asked) == asked
    assert (await job.run(budget=1.0)).left == 0


async def test_a_budget_is_used_up_though_calls_under_way_reserve_more_than_they_cost(
    tmp_path: Path, provider: Provider
) -> None:
    provider.delay_s = 0.01
    job = Job(tmp_path, provider, more="concurrency = 4\n")
    small, large = read_endpoints(job.endpoints, catalogue(), {"TEST_KEY": "sesame"})[0]
    question = read_prompts([job.prompts])[0].messages
    paid = 8 * (small.cost(100, 10) + large.cost(100, 10))
    done = await job.run(budget=paid + large.most(question))
    assert (done.scored, done.stopped, done.left) == (16, "", 0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -5, "completion_tokens": -7}, {"prompt_tokens": None}])
async def test_tokens_that_an_endpoint_does_not_tell_are_taken_from_the_texts(
    tmp_path: Path, provider: Provider, usage: object
) -> None:
    body = completion("It is 4.") | {"usage": usage}
    provider.always = {name: lambda handler: reply(handler, 200, body) for name in ("small", "large")}
    await Job(tmp_path, provider).run()
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    counts = {(row["input_tokens"], row["output_tokens"]) for row in rows if "input_tokens" in row}
    assert counts == {(5, 2)}
    assert all(row["cost_usd"] >= 0 for row in rows)


async def test_a_count_of_tokens_that_is_no_number_is_a_failure(tmp_path: Path, provider: Provider) -> None:
    body = completion("It is 4.") | {"usage": {"prompt_tokens": float("inf")}}
    provider.faults["small"] = [lambda handler: reply(handler, 200, body)]
    assert (await Job(tmp_path, provider).run()).failed == 1


async def test_no_more_calls_at_a_time_than_an_endpoint_allows(tmp_path: Path, provider: Provider) -> None:
    provider.delay_s = 0.02
    job = Job(tmp_path, provider, more="concurrency = 2\n")
    await job.run()
    assert 2 <= provider.most_at_once <= 4


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, provider: Provider) -> None:
    job, output = Job(tmp_path, provider, more="concurrency = 1\n"), tmp_path / "out.jsonl"
    arguments = (
        "label", job.prompts, "--endpoints", job.endpoints, "--models", job.models, "--output", output,
        "--budget", "1", "--score", "contains", "--results", job.results,
    )  # fmt: skip
    environment = {**os.environ, "TEST_KEY": "sesame"}
    for number in (signal.SIGKILL, signal.SIGINT):
        provider.delay_s = 0.1
        before = len(provider.asked)
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(provider.asked) < before + 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
        if number is signal.SIGINT:
            assert process.returncode == 130
            assert "run it again to go on" in told
    with job.results.open("ab") as file:
        file.write(b'{"prompt": "q7", "model": "lar')  # what a kill leaves in the middle of a line
    provider.delay_s = 0.0
    done = run_waypost(*arguments, env={"TEST_KEY": "sesame"})
    assert done.returncode == 0, done.stderr
    assert "8 references of 8 prompts" in done.stdout
    assert len(read_references([output], catalogue()).references) == 8
    # At most the two calls under way at each of the two ends were asked twice.
    assert len(provider.asked) <= 16 + 4


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with results_in(tmp_path / "r"), pytest.raises(InputError, match="another run"), results_in(tmp_path / "r"):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "endpoints"),
        ("[[endpoints]]\nmodel = 'small'\nbase_url = 'ftp://x'", "endpoints[0].base_url: String should match pattern"),
        (
            "[[endpoints]]\nmodel = 'small'\nbase_url = 'http://x'\ntemprature = 1",
            "endpoints[0].temprature: no such setting; see docs/labelling.md",
        ),
        ("[[endpoints]]\nmodel = 'smal'\nbase_url = 'http://x'", "did you mean 'small'"),
        ("[[endpoints]]\nmodel = 'small'\nbase_url = 'http://x'\napi_key_env = 'NO_KEY'", "NO_KEY is not set"),
        ("[[endpoints]]\nmodel = 'small'\nbase_url = 'http://x'\n" * 2, "small-1 has two endpoints"),
        ("[endpoints", "TOML"),
    ],
)
def test_a_file_of_endpoints_that_is_wrong_says_where(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_endpoints(path, catalogue(), {})
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.jsonl", "{}", "p.jsonl:1: prompt: is missing"),
        ("p.jsonl", "[" * 99_999, "p.jsonl:1: "),
        ("p.jsonl", "[]", "p.jsonl:1"),
        ("p.jsonl", '{"prompt": " "}', "empty"),
        ("p.jsonl", '{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}', "p.jsonl:2: id 'a'"),
        ("p.jsonl", "no json", "p.jsonl:1"),
        ("p.txt", "\n \n", "no prompts"),
    ],
)
def test_prompts_that_are_wrong_say_where(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_prompts([tmp_path / name])
    assert told in str(error.value)


async def test_what_cannot_be_scored_is_said_before_anything_is_paid(tmp_path: Path, provider: Provider) -> None:
    job = Job(tmp_path, provider)
    with pytest.raises(InputError, match=r"needs a \[judge\]"):
        await job.run("judge")
    with pytest.raises(InputError, match="expected judge, exact"):
        await job.run("guess")
    job.prompts.write_text('{"prompt": "no answer known"}')
    with pytest.raises(InputError, match="no `expected` answer"):
        await job.run("exact")
    job.prompts.write_text('{"prompt": "two and two", "expected": "four"}')
    with pytest.raises(InputError, match="has no number"):
        await job.run("number")
    assert provider.asked == []


def test_a_file_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="r:1: is no result"), results_in(tmp_path / "r"):
        pass


def test_comparisons() -> None:
    assert exact(" Paris. ", "paris")
    assert not exact("Paris, France", "Paris")
    assert contains("The answer is (B).", "B")
    assert not contains("Banana", "B")
    assert last_number("First 3, then 1,200.0 apples.", "#### 1200")
    assert not last_number("none", "3")


@pytest.mark.parametrize(
    ("said", "score"),
    [("score: 7", 0.7), ("Score = 10.", 1.0), ("8", 0.8), ("9/10", 0.9), ("fine", None), ("11", None)],
)
def test_what_a_judge_says_is_read(said: str, score: float | None) -> None:
    assert judged(said) == score


@given(st.text(max_size=200))
def test_an_answer_cannot_step_out_of_what_is_judged(answer: str) -> None:
    [message] = judge_messages("q", answer, "")
    mark = next(line for line in message.content.splitlines() if line.startswith("=== ")).rstrip(" ;")
    assert message.content.count(f"\n{mark}\n") == 2
    assert mark not in answer
