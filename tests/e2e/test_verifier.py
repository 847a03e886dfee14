"""Guard and verifier over a real socket, with the real encoder: near misses are not served, the same question is."""

import pytest
from waypost.v1 import admin_pb2, types_pb2

from tests.e2e.kit import Client

NEAR_MISSES = [
    ("numbers_differ", "Is the warranty valid for 2 years?", "Is the warranty valid for 3 years?"),
    ("units_differ", "Is 500 mg of vitamin C a day too much?", "Is 500 g of vitamin C a day too much?"),
    ("dates_differ", "Is the office open on Saturday?", "Is the office open on Sunday?"),
    (
        "names_differ",
        "Is John Smith still the best goalkeeper of the league this season?",
        "Is Jack Smith still the best goalkeeper of the league this season?",
    ),
    ("terms_differ", "How do I open report_2.csv?", "How do I open report_3.csv?"),
    ("negation", "Which mushrooms are safe to eat?", "Which mushrooms are not safe to eat?"),
    ("opposite", "Should I stretch before a run?", "Should I stretch after a run?"),
    ("order_differs", "How do I convert pounds to kilograms?", "How do I convert kilograms to pounds?"),
    ("roles_differ", "Can you send me money?", "Can I send you money?"),
    ("question_differs", "When was the tower built?", "Where was the tower built?"),
    ("verbatim_differs", "What does a[1:] do in Python?", "What does a[:1] do in Python?"),
    ("verbatim_differs", "Kann ich hier rauchen?", "Kann ich hier nicht rauchen?"),
]
# Without a budget that has to be learned first, what guard and verifier say is what counts.
NO_BUDGET = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_DEFAULT, error_budget=1)
THE_SAME = [
    ("What's the capital of France?", "what is the capital of france"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("How many calories are in 100g of rice?", "How many calories are in 100 g of rice?"),
    ("I can't log in to my account", "I cannot log in to my account"),
    ("Wie kann ich mein Passwort ändern?", "wie kann ich mein passwort ändern"),
]


@pytest.mark.parametrize(("check", "stored", "asked"), NEAR_MISSES)
def test_a_near_miss_is_not_served_and_the_check_is_named(
    client: Client, scope: str, check: str, stored: str, asked: str
) -> None:
    entry = client.put(stored, "the answer", scope).entry_id
    plan = client.decide(asked, scope).plan
    assert plan.steps
    assert plan.candidate.entry_id == entry
    assert plan.candidate.refused_by == check
    assert plan.candidate.p_correct == 0
    assert client.decide(stored, scope).answer.content == "the answer"


@pytest.mark.parametrize(("stored", "asked"), THE_SAME)
def test_the_same_question_typed_otherwise_is_served_with_its_probability(
    client: Client, scope: str, stored: str, asked: str
) -> None:
    client.put(stored, "the answer", scope)
    answer = client.decide(asked, scope, cache=NO_BUDGET).answer
    assert answer.content == "the answer"
    assert answer.match == types_pb2.MATCH_SEMANTIC
    assert answer.matched_prompt == stored
    assert 0.9 <= answer.p_correct <= 1
    assert not client.decide(stored, scope).answer.HasField("p_correct"), "an exact match needs none"


def test_what_nothing_speaks_against_but_is_not_probable_enough_is_a_candidate(client: Client, scope: str) -> None:
    client.put("How do I learn to play the guitar?", "the answer", scope)
    candidate = client.decide("What is a good first song on the guitar?", scope, cache=NO_BUDGET).plan.candidate
    assert candidate.refused_by in ("improbable", "below_threshold", "")
    client.put("What should I do when my parcel has not arrived?", "the answer", scope)
    candidate = client.decide(
        "My parcel still has not arrived, what should I do?", scope, cache=NO_BUDGET
    ).plan.candidate
    assert candidate.refused_by == "improbable"
    assert 0.3 < candidate.p_correct < 0.9


def test_an_explanation_tells_every_answer_that_was_judged_and_why(client: Client, scope: str) -> None:
    for prompt in ("Is the warranty valid for 2 years?", "is the warranty valid for 3 years"):
        client.put(prompt, f"on {prompt}", scope)
    decision = client.decide("Is the warranty valid for 3 years?", scope, cache=NO_BUDGET, explain=True)
    assert decision.answer.matched_prompt == "is the warranty valid for 3 years"
    notes = {n.note.split(" ", 1)[0]: n.note for n in decision.explanation.notes if n.stage == "verify"}
    served = notes.pop(decision.answer.entry_id)
    (refused,) = notes.values()
    assert "may be served" in served
    assert f"probability {decision.answer.p_correct:.4f}" in served
    assert "same_words 1.000" in served
    assert "'Is the warranty valid for 2 years?': refused: numbers_differ (probability 0.0000, cosine 0.9" in refused
    explained = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert explained.explanation == decision.explanation
