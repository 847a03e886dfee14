"""Over the socket: scopes and contexts that look alike never share an answer, a reference or a decision."""

import itertools
import random
from pathlib import Path

import pytest
from waypost.v1 import admin_pb2, references_pb2, router_pb2, types_pb2

from tests.e2e.kit import NO_BUDGET, Client, serving

PROMPTS = ["How do I reset my password?", "How can I reset my password?", "How do I boil an egg?"]
CONTEXTS = [
    types_pb2.AnswerContext(),
    types_pb2.AnswerContext(system_prompt="ab"),
    types_pb2.AnswerContext(system_prompt="a", tools="b"),
    types_pb2.AnswerContext(extra={"a": "b"}),
]


def test_hundreds_of_lookups_find_only_what_is_their_own(client: Client, scope: str) -> None:
    chance = random.Random(8)
    scopes = [scope + end for end in ("", "a", "aa", "a:a", "/", ":", "A")]
    every = list(itertools.product(scopes, range(len(CONTEXTS)), PROMPTS))
    filled = set(chance.sample(every, len(every) // 3))
    for place in sorted(filled):
        client.put(place[2], "|".join(map(str, place)), place[0], context=CONTEXTS[place[1]])
    asked = chance.choices(every, k=600)
    requests = [router_pb2.DecideRequest(scope=s, prompt=p, context=CONTEXTS[c], cache=NO_BUDGET) for s, c, p in asked]
    results = client.router.DecideBatch(router_pb2.DecideBatchRequest(requests=requests)).results
    hits = 0
    for place, result in zip(asked, results, strict=True):
        content = result.response.answer.content
        if place in filled:
            assert content == "|".join(map(str, place))
        if content:
            hits += 1
            assert content.split("|")[:2] == [place[0], str(place[1])]
            assert result.response.answer.matched_prompt in PROMPTS[:2] or place[2] == PROMPTS[2]
        else:
            assert not any((place[0], place[1], p) in filled for p in ([place[2]], PROMPTS[:2])[place[2] != PROMPTS[2]])
    assert hits > 150


@pytest.mark.parametrize("end", ["", "a", "-", "/a", ":"])
def test_whatever_is_done_to_one_scope_its_neighbours_stay_as_they_are(client: Client, scope: str, end: str) -> None:
    mine, other = scope, scope + (end or "x")
    for name in (mine, other):
        client.put("a question", f"of {name}", name, source_tags=["t"])
        client.upsert(references_pb2.Reference(id="r", prompt="a question", best_model="small"), scope=name)
    assert client.invalidate(other, all=True).removed == 1
    assert client.references.Delete(references_pb2.DeleteRequest(scope=other, ids=["r"])).deleted == 1
    assert client.decide("a question", mine).answer.content == f"of {mine}"
    assert client.decide("a question", other).WhichOneof("outcome") == "plan"
    assert len(client.answers(mine)) == 1
    assert len(client.references.List(references_pb2.ListRequest(scope=mine)).references) == 1


TOKENS = "".join(
    f'[auth.tokens.{name}]\ntoken = "{name * 16}"\nscopes = ["shop"]\nadmin = {str(name == "boss").lower()}\n'
    for name in ("ann", "bob", "boss")
)


def test_what_a_token_was_told_and_says_of_it_is_its_own_also_after_a_restart(
    starter_index: Path, tmp_path: Path
) -> None:
    def complaints(server: str) -> dict[str, list[int]]:
        found = {}
        for name in ("ann", "bob"):
            client = Client(server, name * 16)
            request = admin_pb2.GetStatsRequest(scope="shop")
            stats = client.admin.GetStats(request, metadata=client.metadata)
            found[name] = [account.complaints for account in stats.budgets]
            client.close()
        return found

    with serving(starter_index, tmp_path / "data", TOKENS) as server:
        boss, ann = Client(server.address, "boss" * 16), Client(server.address, "ann" * 16)
        boss.put("How do I reset my password?", "in the settings", "shop")
        spellings = (f"how do I reset{' ' * i}my password" for i in range(1, 100))  # some of them are audited
        hit = next(d for text in spellings if (d := ann.decide(text, "shop")).WhichOneof("outcome") == "answer")
        assert complaints(server.address) == {"ann": [0], "bob": []}
        boss.close()
        ann.close()
    with serving(starter_index, tmp_path / "data", TOKENS) as server:
        ann = Client(server.address, "ann" * 16)
        wrong = router_pb2.ReportRequest(decision_id=hit.decision_id, answer_wrong=True)
        assert ann.router.Report(wrong, metadata=ann.metadata).removed == 1
        assert complaints(server.address) == {"ann": [1], "bob": []}
        ann.close()
