"""Over the socket, with the real encoder: a budget holds on a stream, audits and verdicts do what the contract says."""

import itertools
import json
import random
import signal
import sqlite3
from pathlib import Path

from waypost.v1 import admin_pb2, types_pb2

from tests.e2e.kit import Client, serving, wait_for

TOPICS = {
    "reset": ["How do I reset my password", "I forgot my password, how can I set a new one", "password reset"],
    "parcel": ["Where is my parcel", "My package has not come yet, where is it", "track my delivery"],
    "refund": ["How do I get a refund", "I want my money back for this order", "refund my purchase"],
    "hours": ["When are you open", "What are your opening hours", "at what time does the shop open"],
    "invoice": ["Can I have an invoice", "Please send me the bill for my order", "I need an invoice for my taxes"],
    "address": ["How do I change my address", "I moved, where do I enter my new address", "update delivery address"],
    "cancel": ["How do I cancel my order", "I want to call off my purchase", "stop my order from being sent"],
    "voucher": ["How do I use a voucher", "Where do I enter my gift code", "redeem a gift card"],
}
BEFORE = ["", "hello, ", "hi there: ", "quick question: ", "good morning, ", "sorry to bother you, "]
AFTER = ["", "?", " please", " thanks", ", thank you", " asap"]


def asked(client: Client, scope: str, budget: float, order: list[tuple[str, str]]) -> tuple[int, int, int]:
    """Ask a stream; return semantic hits, wrong answers among all served, and audits seen."""
    hits = wrong = audits = 0
    for topic, prompt in order:
        decision = client.decide(prompt, scope, cache=types_pb2.CacheControl(error_budget=budget))
        if decision.WhichOneof("outcome") == "answer":
            hits += decision.answer.match == types_pb2.MATCH_SEMANTIC
            wrong += decision.answer.content != f"about {topic}"
            continue
        if decision.plan.candidate.refused_by == "audited":
            audits += 1
            assert decision.plan.candidate.entry_id
            assert decision.plan.candidate.p_correct >= 0.09, "what is likelier wrong is not even audited"
        client.report(decision, f"about {topic}", model=decision.plan.steps[0].model, finish_reason="stop")
    return hits, wrong, audits


def stream(seed: int) -> list[tuple[str, str]]:
    every = [
        (topic, before + ask + after)
        for topic, asks in TOPICS.items()
        for before, ask, after in itertools.product(BEFORE, asks, AFTER)
    ]
    random.Random(seed).shuffle(every)
    return every


def account(client: Client, scope: str) -> admin_pb2.BudgetStats:
    return client.admin.GetStats(admin_pb2.GetStatsRequest(scope=scope)).budgets[0]


def test_a_budget_holds_on_a_stream_and_most_of_it_is_answered(client: Client, scope: str) -> None:
    order = stream(1)
    hits, wrong, audits = asked(client, scope, 0.05, order)
    assert wrong <= 0.05 * len(order)
    assert hits >= 0.4 * len(order)
    found = account(client, scope)
    assert (found.requests, found.served, found.audits) == (len(order), hits, audits)
    assert audits > 0
    assert wrong / len(order) <= found.error_bound <= 0.05


def test_what_was_learned_and_the_wordings_are_there_after_a_restart(starter_index: Path, tmp_path: Path) -> None:
    order = stream(2)[:300]
    with serving(starter_index, tmp_path / "data") as server:
        client = Client(server.address)
        asked(client, "shop", 0.05, order)
        before, known = account(client, "shop"), len(client.answers("shop"))
        client.close()
    with serving(starter_index, tmp_path / "data") as server:
        client = Client(server.address)
        after = account(client, "shop")
        assert (after.requests, after.served, after.verdicts) == (before.requests, before.served, before.verdicts)
        assert abs(after.error_bound - before.error_bound) < 1e-9
        assert len(client.answers("shop")) == known
        again = [client.decide(prompt, "shop").answer for _, prompt in order]
        assert sum(found.match == types_pb2.MATCH_EXACT for found in again) > known, "by wordings"
        client.close()


def requests_kept(data: Path, scope: str) -> int:
    """Return how many requests the scope's account has, by what is on disk."""
    with sqlite3.connect(f"file:{data / 'policy.sqlite3'}?mode=ro", uri=True) as file:
        rows = file.execute("SELECT value FROM kept WHERE kind = 'cache' AND key = ?", (scope,)).fetchall()
    return sum(ledger["now"]["requests"] for (value,) in rows for ledger in json.loads(value)["ledgers"].values())


def test_what_was_learned_survives_a_kill(starter_index: Path, tmp_path: Path) -> None:
    order, data = stream(3)[:300], tmp_path / "data"
    with serving(starter_index, data) as server:
        client = Client(server.address)
        asked(client, "shop", 0.05, order)
        before = account(client, "shop")
        assert before.verdicts > 0
        wait_for(lambda: requests_kept(data, "shop") == len(order))
        client.close()
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(starter_index, data) as server:
        client = Client(server.address)
        after = account(client, "shop")
        assert (after.requests, after.served, after.audits) == (before.requests, before.served, before.audits)
        assert (after.verdicts, after.wrong) == (before.verdicts, before.wrong)
        assert abs(after.error_bound - before.error_bound) < 1e-9
        hits, wrong, _ = asked(client, "shop", 0.05, stream(3)[300:420])
        assert hits >= 40, "it goes on from there, not from a cold start"
        assert wrong <= 6
        client.close()


def test_prompts_that_have_nothing_in_common_are_not_answered_from_the_cache(client: Client, scope: str) -> None:
    order = [(str(i), f"{asks[0]} {i * 7}") for i, asks in enumerate(TOPICS.values())]
    order += [(ask, ask) for asks in TOPICS.values() for ask in asks]
    assert asked(client, scope, 0.02, order)[:2] == (0, 0)
