"""Why a cached answer was served, or not: over the socket, by Decide, by Explain and on the command line."""

import pytest
from waypost.v1 import admin_pb2, router_pb2, types_pb2

from tests.conftest import Server, run_waypost
from tests.e2e.kit import NO_BUDGET, Client

STORED = "How do I reset my password?"
WORDING = "How can I reset my password?"


@pytest.fixture
def filled(client: Client, scope: str) -> str:
    """A scope with an answer that has two wordings, and one with a number in it."""
    for prompt, answer in ((STORED, "Use the link."), (WORDING, "Use the link."), ("How do I return 3 shirts?", "So.")):
        decision = client.decide(prompt, scope)
        assert client.report(decision, answer, model=decision.plan.steps[0].model, finish_reason="stop").stored
    return scope


def notes(explanation: types_pb2.Explanation) -> str:
    return "\n".join(note.note for note in explanation.notes if note.stage == "verify")


def served(client: Client, scope: str, prompt: str) -> router_pb2.DecideResponse:
    """Ask until no audit comes in between."""
    for _ in range(100):
        decision = client.decide(prompt, scope, explain=True)
        if decision.WhichOneof("outcome") == "answer":
            return decision
    raise AssertionError("always audited")


def test_a_hit_shows_which_wording_was_found_and_every_part_of_the_verdict(client: Client, filled: str) -> None:
    decision = served(client, filled, "how can i reset my PASSWORD")
    assert decision.answer.match == types_pb2.MATCH_SEMANTIC
    assert decision.answer.matched_prompt == WORDING
    said = notes(decision.explanation)
    for part in (
        f"{decision.answer.entry_id} {WORDING!r}: may be served",
        "probability", "cosine", "margin", "agreement", "same_words", "wrong with probability", "verifier", "votes",
        "rival_votes", "lead", "record", "the error budget of 0.01 bore up to", "it was served",
    ):  # fmt: skip
        assert part in said
    again = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert notes(again.explanation) == said
    assert again.answer.matched_prompt == WORDING


def test_a_near_miss_names_the_check_that_refused_it(client: Client, filled: str) -> None:
    decision = client.decide("How do I return 5 shirts?", filled, explain=True)
    assert decision.plan.candidate.refused_by == "numbers_differ"
    said = notes(decision.explanation)
    assert "'How do I return 3 shirts?': refused: numbers_differ" in said
    assert "cosine" in said


def test_what_the_budget_did_not_bear_says_so_also_after_the_report(client: Client, filled: str) -> None:
    decision = client.decide("reset the password for my account, how?", filled, explain=True)
    assert decision.plan.candidate.refused_by == "error_budget"
    assert "it was too much" in notes(decision.explanation)
    client.report(decision, "Use the link.", model=decision.plan.steps[0].model, finish_reason="stop")
    again = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert notes(again.explanation) == notes(decision.explanation)


@pytest.mark.parametrize(("prompt", "why"), [("make it shorter", "refers_back"), ("word " * 600, "truncated")])
def test_where_no_semantic_hit_is_looked_for_the_reason_is_there(
    client: Client, scope: str, prompt: str, why: str
) -> None:
    decision = client.decide(prompt, scope, explain=True)
    assert f"no semantic hit is looked for: {why}" in notes(decision.explanation)


def test_the_command_shows_all_of_it(server: Server, client: Client, filled: str) -> None:
    def said(prompt: str, *more: str) -> str:
        done = run_waypost("decide", prompt, "--address", server.address, "--scope", filled, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    near = said("How do I return 5 shirts?", "--explain")
    assert "near       a cached answer at cosine" in near
    assert ", refused: numbers_differ" in near.split("\n\n")[0]
    assert "verify     " in near
    assert "'How do I return 3 shirts?': refused: numbers_differ" in near
    assert "verify" not in said("How do I return 5 shirts?")
    assert f"asked as   {STORED}" in said(STORED)
    assert client.decide(STORED, filled, cache=NO_BUDGET).answer.match == types_pb2.MATCH_EXACT
    assert "no semantic hit is looked for: refers_back" in said("make it shorter", "--explain")
