"""The commands that look into a running service, and those that are refused."""

import shutil
from pathlib import Path

from google.protobuf.json_format import Parse
from waypost.v1 import admin_pb2, types_pb2

from service.client_admin import stats_text
from tests.conftest import Server
from tests.e2e.kit import Client, serving
from tests.e2e.test_cli import done, failed

TOKENS = """
[auth.tokens.boss]
token = "of-the-boss-000000"
scopes = ["*"]
admin = true
[auth.tokens.shop]
token = "of-the-shop-000000"
scopes = ["shop"]
[[policy.experiments]]
name = "trial"
arms = [{ name = "all", share = 1 }]
"""


def test_what_costs_more_than_the_baseline_is_no_saving() -> None:
    def spent(cost: float) -> str:
        return stats_text(admin_pb2.GetStatsResponse(cost_usd=cost, baseline_cost_usd=2.0, baseline_model="big"))

    assert "$0.5000; always big $2.0000, 75.0% saved" in spent(0.5)
    assert "$3.0000; always big $2.0000, 50.0% more" in spent(3.0)


def test_a_decision_is_explained_by_its_id(server: Server, client: Client, scope: str) -> None:
    decision = client.decide("Write a haiku about rain", scope, request_id="r-17")
    said = done("explain", decision.decision_id, "--address", server.address)
    lines = said.splitlines()
    assert lines[0].startswith("decided    20")
    assert lines[0].endswith(f"UTC in scope {scope}")
    assert "request    r-17" in lines
    assert "prompt     Write a haiku about rain" in lines
    assert any(line.startswith(f"call       {decision.plan.steps[0].model}") for line in lines)
    assert any(line.startswith("neighbour ") for line in lines), "also where the caller asked for no explanation"
    raw = done("explain", decision.decision_id, "--address", server.address, "--json")
    assert Parse(raw, admin_pb2.ExplainResponse()).decision_id == decision.decision_id
    assert "is not known" in failed("explain", "nonsense", "--address", server.address)


def test_stats_say_what_was_done_and_spent(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, TOKENS) as server:
        client = Client(server.address, "of-the-shop-000000")
        decision = client.decide("Write a haiku about rain", "shop")
        model = decision.plan.steps[0].model
        client.report(decision, model=model, quality=0.5, usage=types_pb2.Usage(cost_usd=0.25))
        client.decide("Write a haiku about rain", "shop")
        client.close()
        shop = {"WAYPOST_TOKEN": "of-the-shop-000000"}
        said = done("stats", "--address", server.address, "--scope", "shop", env=shop)
        assert "decisions  2\nhits       1 exact, 0 semantic" in said
        assert "spent      $0.2500; always " in said
        assert "arm        trial/all: 2 decisions, 1 hits, $0.2500" in said
        rows = [line.split() for line in said.splitlines() if line.startswith(f"{model} ")]
        assert rows == [[model, "1", "100.0%", "1", "0", "0.500", "0.2500"]] * 2, "of the scope, and of the arm"
        assert "PERMISSION_DENIED" in failed("stats", "--address", server.address, env=shop)
        everything = done("stats", "--address", server.address, "--json", "--token", "of-the-boss-000000")
        assert Parse(everything, admin_pb2.GetStatsResponse()).decisions == 2


def test_generations_are_listed_and_activated(starter_index: Path, tmp_path: Path) -> None:
    index = shutil.copytree(starter_index, tmp_path / "index")
    rows = ("--references", "reference_prompts/starter/coding.jsonl", "--models", "reference_prompts/models.toml")
    done("build-index", *rows, "--output", index)
    with serving(index, tmp_path / "data") as server:
        where = ("--address", server.address)
        newest, oldest = (line.split() for line in done("generations", *where).splitlines())
        assert (newest[-2:], oldest[-1]) == (["in", "use"], "references")
        assert done("generations", *where, "--activate", oldest[0]) == f"serving {oldest[0]}, before {newest[0]}\n"
        newest, oldest = (line.split() for line in done("generations", *where).splitlines())
        assert (newest[-1], oldest[-2:]) == ("references", ["in", "use"])
        assert "no generation 'nonsense'" in failed("generations", *where, "--activate", "nonsense")
        assert '"active": true' in done("generations", *where, "--json")
