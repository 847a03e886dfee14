"""Looking back and learning through a real server: its journal, replay and refit from the command line."""

import gzip
import json
from pathlib import Path

import pytest
from waypost.v1 import admin_pb2, types_pb2

from benchmarks import learning
from tests.conftest import SHARED_DATA, run_waypost
from tests.e2e.kit import Client, serving

ROWS = SHARED_DATA / "routing" / "routellm_gsm8k.jsonl.gz"


def test_what_was_decided_is_replayed_and_explained_after_a_restart(starter_index: Path, tmp_path: Path) -> None:
    prompts = [f"Write a haiku about the number {i}" for i in range(6)]
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        made = [client.decide(prompt, "shop") for prompt in prompts]
        for decision in made:
            client.report(decision, quality=1.0, quality_source="test")
        assert client.admin.GetStats(admin_pb2.GetStatsRequest(scope="shop")).baseline_cost_usd > 0
        client.close()
    cheap = tmp_path / "cheap.toml"
    cheap.write_text("[routing]\nmin_similarity = 1.0\nfallback = 'small'\n")
    with serving(starter_index, tmp_path) as server:
        done = run_waypost("replay", "--address", server.address, "--json", "--scope", "shop")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["recorded"], found["replayed"]) == ("6", "6")
        done = run_waypost("replay", "--address", server.address, "--settings", cheap, "--period", "1h")
        assert "replayed   6 of 6" in done.stdout, done.stderr
        wrong = run_waypost("replay", "--address", server.address, "--generation", "0" * 16)
        assert wrong.returncode == 1
        assert "ListGenerations" in wrong.stderr
        client = Client(server.address)
        explained = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=made[0].decision_id))
        assert explained.prompt == prompts[0]
        assert explained.plan.steps == made[0].plan.steps
        assert client.report(made[0], fill_token="", outcome=types_pb2.OUTCOME_OK).stored is False
        client.close()
    assert run_waypost("replay", "--period", "soon").returncode == 2
    missing = run_waypost("refit", "--index", starter_index, "--data-dir", tmp_path / "nowhere")
    assert missing.returncode == 1
    assert "no journal is here" in missing.stderr


@pytest.mark.skipif(not ROWS.is_file(), reason="the routing data is not here")
def test_on_real_rows_reports_do_no_harm_and_a_model_that_turns_bad_is_left(tmp_path: Path) -> None:
    with gzip.open(ROWS, "rt", encoding="utf-8") as file:
        rows = [line for _, line in zip(range(500), file, strict=False)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    found = learning.run([tmp_path / "rows.jsonl"], None, seed=0, price=0.07, labels=80, stream=320)
    assert found["rows"] == {"labels": 80, "stream": 320, "kept": 100}
    [(_, after)] = found["left_after"].items()
    assert after is not None
    assert found["utility"]["learned"] > found["utility"]["few"] - 0.05
