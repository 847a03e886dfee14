"""A policy in a running service: from the file to the plan, across a restart, and what is said of wrong ones."""

import urllib.request
from pathlib import Path

import pytest
from waypost.v1 import types_pb2

from tests.conftest import ROOT, run_waypost
from tests.e2e.kit import Client, metrics_address, serving

SMALL = {"gpt-6-luna", "claude-haiku-5-5", "deepseek-flash"}
POLICY = """
[[policy.rules]]
name = "critical flows"
when = 'attributes.flow == "checkout"'
pin = "large"
cache = "bypass"
stop = true

[[policy.rules]]
name = "small talk"
when = 'prompt.matches(r"(?i)^(hi|hello)\\b")'
tier = "small"

[[policy.experiments]]
name = "flag"
scopes = ["lab"]
arms = [{ name = "on", share = 1.0, tier = "medium" }]

[policy.scopes.capped]
monthly_budget_usd = 0.0001
"""


def test_the_policy_of_the_settings_file_decides(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, POLICY) as server:
        client = Client(server.address)
        hello = "Hello, where is my order?"
        pinned = client.decide(hello, attributes={"flow": "checkout"}, explain=True)
        assert [step.model for step in pinned.plan.steps] == ["gpt-6.1-sol"]
        assert (pinned.explanation.rule, pinned.plan.fill_token) == ("critical flows", "")
        cheap = client.decide(hello, explain=True)
        assert cheap.explanation.rule == "small talk"
        assert {step.model for step in cheap.plan.steps} <= SMALL
        neither = client.decide(hello, route=types_pb2.RouteControl(deny_models=list(SMALL)))
        assert neither.plan.infeasible[-1] == "some of these limits are those of the rules in force: small talk"
        client.close()


def test_conversations_budgets_and_results_survive_a_restart(starter_index: Path, tmp_path: Path) -> None:
    large = types_pb2.RouteControl(allow_models=["large"])
    with serving(starter_index, tmp_path, POLICY) as server:
        client = Client(server.address)
        first = client.decide("Prove that there are infinitely many primes", "talk", conversation_id="c", route=large)
        assert first.plan.steps[0].model == "gpt-6.1-sol"
        dear = client.decide("Prove that there are infinitely many primes", "capped")
        client.report(dear, fill_token="", model=dear.plan.steps[0].model, usage=types_pb2.Usage(cost_usd=1))
        flagged = client.decide("Which day is it?", "lab", explain=True)
        assert flagged.explanation.experiment_arm == "flag/on"
        assert flagged.plan.steps[0].model in {"gpt-6.1-terra", "gemini-3.8-flash", "claude-sonnet-5-5"}
        client.report(flagged, fill_token="", model=flagged.plan.steps[0].model, quality=0.75)
        client.close()
    with serving(starter_index, tmp_path, POLICY) as server:
        client = Client(server.address)
        follow = client.decide("make it shorter", "talk", conversation_id="c", explain=True)
        assert follow.plan.steps[0].model == "gpt-6.1-sol"
        assert "session: stays with gpt-6.1-sol" in follow.explanation.notes[-1].note
        capped = client.decide("Prove that there are infinitely many primes", "capped", explain=True)
        costs = {estimate.model: estimate.cost_usd for estimate in capped.explanation.estimates}
        assert capped.plan.steps[0].cost_usd == pytest.approx(min(costs.values()))
        assert capped.explanation.notes[0].note.startswith("budget: 1.00 USD spent")
        with urllib.request.urlopen(f"http://{metrics_address(server)}/metrics", timeout=10) as response:
            series = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
        assert series['waypost_arm_plans_total{arm="on",experiment="flag"}'] == "1.0"
        assert series['waypost_arm_quality{arm="on",bound="mean",experiment="flag"}'] == "0.75"
        assert series["waypost_conversations"] == "1.0"
        assert float(series["waypost_month_spent_usd"]) >= 1
        client.close()


def test_a_model_whose_calls_fail_is_left_out_of_plans(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[policy.health]\nwindow = 5\nleast = 3\nopen_s = 600\n") as server:
        client = Client(server.address)
        model = ""
        for i in range(3):
            decision = client.decide(f"What is the capital of France? {i}", "s")
            model = decision.plan.steps[0].model
            client.report(decision, fill_token="", model=model, outcome=types_pb2.OUTCOME_TIMEOUT)
        after = client.decide("What is the capital of France?", "s", explain=True)
        assert after.plan.steps
        assert model not in {step.model for step in after.plan.steps}
        assert f"health: the circuit of {model} is open" in [one.note for one in after.explanation.notes]
        client.close()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[policy.rules]]\nname = "vip"\npinn = "large"', "policy.rules[vip].pinn: no such setting"),
        ('[[policy.rules]]\npin = "large"', "policy.rules[0].name: Field required"),
        ("[policy]\nwillingness_to_pay = 0", "policy.willingness_to_pay: Input should be greater than 0"),
        ("[policy]\ntarget_strong_share = 0.2\nmonthly_budget_usd = 5", "exclude each other: remove one"),
        (
            '[[policy.rules]]\nname = "vip"\npin = "larg"',
            "rule 'vip': pin: the catalogue has no model 'larg'; did you mean",
        ),
        ('[[policy.rules]]\nname = "vip"\ntier = "tiny"', "rule 'vip': tier: the catalogue has no tier 'tiny'"),
        ('[[policy.rules]]\nname = "vip"\nwhen = "tokens >"\npin = "large"', "rule 'vip': when: does not compile"),
        (
            '[[policy.rules]]\nname = "all"\nstop = true\n[[policy.rules]]\nname = "vip"\npin = "large"',
            "rule 'vip': can never match: rule 'all' before it stops at every request; move this rule before it",
        ),
        (
            '[[policy.experiments]]\nname = "e"\narms = [{name = "a", share = 0.0}]',
            "policy.experiments[e]: the arms' shares are all 0",
        ),
    ],
)
def test_check_and_serve_name_what_is_wrong_with_a_policy(
    starter_index: Path, tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "waypost.toml"
    path.write_text(text, encoding="utf-8")
    checked = run_waypost("check", "--config", path, "--index", starter_index, "--data-dir", tmp_path / "data")
    assert checked.returncode == 1
    assert named in " ".join((checked.stdout + checked.stderr).split())
    assert "Traceback" not in checked.stderr


def test_a_service_does_not_start_with_a_wrong_policy(starter_index: Path, tmp_path: Path) -> None:
    path = tmp_path / "waypost.toml"
    path.write_text('[[policy.rules]]\nname = "vip"\npin = "larg"', encoding="utf-8")
    done = run_waypost(
        "serve", "--config", path, "--index", starter_index, "--data-dir", tmp_path, "--listen", "127.0.0.1:0"
    )
    assert done.returncode == 1
    assert "rule 'vip': pin: the catalogue has no model 'larg'" in done.stderr + done.stdout


@pytest.mark.parametrize("example", ["keyword-tiers", "keyword-domains"])
def test_the_examples_pass_the_check(starter_index: Path, tmp_path: Path, example: str) -> None:
    path = ROOT / "examples" / "policy" / f"{example}.toml"
    checked = run_waypost("check", "--config", path, "--index", starter_index, "--data-dir", tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
