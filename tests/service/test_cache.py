"""What the cache serves, what it only hints at, what it stores and what it refuses."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from waypost.v1 import admin_pb2, cache_pb2, router_pb2, types_pb2

from index.store import Change, Kind, MemoryStore
from service.errors import InvalidRequest, NotFound, PreconditionFailed, to_status
from tests.service.kit import Service, running

Mode = types_pb2.CacheMode
BASE = "what is the capital of the country"  # any order of these words has the same vector
SAME = "the country of what capital is the"


def cache(**fields: Any) -> types_pb2.CacheControl:
    return types_pb2.CacheControl(**fields)


@pytest.fixture
async def service(root: Path) -> AsyncIterator[Service]:
    async with running(root) as found:
        yield found


def served(decision: router_pb2.DecideResponse) -> str:
    return decision.answer.content


# ---- exact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        "café au lait\nplease",
        "cafe\u0301 au lait\nplease",
        "café au lait\r\nplease  \r\n",
        "\n café au lait  \nplease\t",
    ],
)
async def test_spelling_that_no_reader_sees_makes_no_difference(service: Service, asked: str) -> None:
    await service.put("café au lait\nplease", "yes")
    decision = await service.decide(asked)
    assert served(decision) == "yes"
    assert decision.answer.match == types_pb2.MATCH_EXACT
    assert decision.answer.similarity == 1
    assert decision.answer.matched_prompt == "café au lait\nplease"


@pytest.mark.parametrize("asked", ["Café au lait", "café  au lait", "café au lait?", "cafe au lait", "café\nau lait"])
async def test_spelling_that_a_reader_sees_is_no_exact_hit(service: Service, asked: str) -> None:
    await service.put("café au lait", "yes")
    decision = await service.decide(asked, cache=cache(mode=Mode.CACHE_MODE_EXACT_ONLY))
    assert decision.WhichOneof("outcome") == "plan"


@pytest.mark.parametrize(
    "prompt", ["nul \x00 inside", "👩‍👩‍👧‍👦 emoji", "مرحبا \u202e rtl", "x" * (1 << 20), "e" * 5_000 + "é"]
)
async def test_odd_prompts_are_stored_and_found(service: Service, prompt: str) -> None:
    await service.put(prompt, "yes")
    assert served(await service.decide(prompt)) == "yes"


async def test_a_chunked_answer_is_replayed_in_its_chunks(service: Service) -> None:
    chunks = ["One", "", " two\n", "three 👍"]
    await service.put(BASE, "", chunks=chunks, content_type="text/markdown", model="some model")
    answer = (await service.decide(BASE)).answer
    assert list(answer.chunks) == [chunk for chunk in chunks if chunk]
    assert answer.content == "".join(chunks)
    assert (answer.content_type, answer.model) == ("text/markdown", "some model")


async def test_a_put_replaces_and_says_so(service: Service) -> None:
    first = await service.put(BASE, "old")
    again = await service.put(BASE + " ", "new", chunks=["n", "ew"])
    assert (first.replaced, again.replaced) == (False, True)
    assert first.entry_id == again.entry_id
    assert served(await service.decide(BASE)) == "new"
    listed = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())
    assert [answer.content for answer in listed.answers] == ["new"]


# ---- semantic ------------------------------------------------------------------------------------------------


async def test_a_prompt_that_means_the_same_is_answered(service: Service) -> None:
    stored = await service.put(BASE, "yes")
    decision = await service.decide(SAME)
    assert served(decision) == "yes"
    assert decision.answer.match == types_pb2.MATCH_SEMANTIC
    assert decision.answer.entry_id == stored.entry_id
    assert 0.999 < decision.answer.similarity <= 1
    assert decision.answer.matched_prompt == BASE


async def test_differing_numbers_are_a_candidate_and_no_answer(root: Path) -> None:
    async with running(root, cache={"threshold": 0.5}) as service:
        stored = await service.put("list 3 rivers of france", "yes")
        decision = await service.decide("list 4 rivers of france")
        assert decision.plan.candidate.refused_by == "numbers_differ"
        assert decision.plan.candidate.entry_id == stored.entry_id
        assert decision.plan.candidate.similarity > 0.5
        assert served(await service.decide("of france list 3 rivers")) == "yes"


async def test_a_candidate_below_the_threshold_is_named_and_a_far_one_is_not(root: Path) -> None:
    async with running(root, cache={"threshold": 0.9}) as service:
        await service.put("a b c d e f g h i j", "yes")
        near = (await service.decide("a b c d e f g h i x")).plan
        assert near.candidate.refused_by == "below_threshold"
        assert 0.8 <= near.candidate.similarity < 0.9
        assert not (await service.decide("nothing like it at all")).plan.HasField("candidate")


async def test_the_nearest_that_may_be_served_is_served_though_a_nearer_one_may_not(root: Path) -> None:
    async with running(root, cache={"threshold": 0.5}) as service:
        await service.put("list 3 rivers of france", "three")
        await service.put("list 4 long rivers of france", "four")
        assert served(await service.decide("rivers of france list 4")) == "four"


@pytest.mark.parametrize(
    "options",
    [
        cache(mode=Mode.CACHE_MODE_EXACT_ONLY),
        cache(mode=Mode.CACHE_MODE_BYPASS),
        cache(mode=Mode.CACHE_MODE_REFRESH),
        cache(error_budget=0),
    ],
)
async def test_who_does_not_ask_for_it_gets_no_semantic_hit(service: Service, options: types_pb2.CacheControl) -> None:
    await service.put(BASE, "yes")
    decision = await service.decide(SAME, cache=options)
    assert decision.WhichOneof("outcome") == "plan"
    assert served(await service.decide(SAME, cache=cache(error_budget=1))) == "yes"


async def test_a_prompt_beyond_the_window_is_only_hit_exactly(service: Service) -> None:
    long = "word " * 300
    await service.put(long + "a b", "yes")
    assert served(await service.decide(long + "a b")) == "yes"
    assert (await service.decide(long + "b a")).WhichOneof("outcome") == "plan"
    await service.put("word", "short")
    assert (await service.decide("word " * 299 + "word")).WhichOneof("outcome") == "plan"
    listed = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())
    assert [answer.truncated for answer in listed.answers] == [True, False]


def conversation(*said: str) -> list[types_pb2.Message]:
    return [types_pb2.Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(said)]


@pytest.mark.parametrize(("max_turns", "match"), [(1, 0), (2, types_pb2.MATCH_SEMANTIC)])
async def test_a_long_conversation_is_only_hit_exactly(root: Path, max_turns: int, match: int) -> None:
    async with running(root, cache={"max_turns": max_turns}) as service:
        put = cache_pb2.PutRequest(messages=conversation("hi", "hello", BASE), answer="yes")
        await service.call("Cache.Put", put)
        exact = await service.decide(messages=conversation("hi", "hello", BASE))
        assert exact.answer.match == types_pb2.MATCH_EXACT
        near = await service.decide(messages=conversation("hi", "hello", SAME))
        assert near.answer.match == match
        other = await service.decide(messages=conversation("hi", "hello!", SAME))
        assert other.WhichOneof("outcome") == "plan", "another history is another context"


CONTEXTS: list[dict[str, Any]] = [
    {"system_prompt": "x"},
    {"tools": "x"},
    {"response_format": "x"},
    {"sampling": "x"},
    {"extra": {"x": "y"}},
    {"extra": {"x": "z"}},
    {"extra": {"y": "x"}},
]


@pytest.mark.parametrize("asked", [BASE, SAME], ids=["exact", "semantic"])
async def test_every_part_of_the_context_separates_answers(service: Service, asked: str) -> None:
    for i, parts in enumerate(CONTEXTS):
        await service.put(BASE, str(i), context=types_pb2.AnswerContext(**parts))
    for i, parts in enumerate(CONTEXTS):
        assert served(await service.decide(asked, context=types_pb2.AnswerContext(**parts))) == str(i)
    assert (await service.decide(asked)).WhichOneof("outcome") == "plan"


async def test_the_order_of_extra_and_an_empty_context_make_no_difference(service: Service) -> None:
    await service.put(BASE, "yes", context=types_pb2.AnswerContext(extra={"a": "1", "b": "2"}))
    asked = types_pb2.AnswerContext(extra={"b": "2", "a": "1"})
    assert served(await service.decide(BASE, context=asked)) == "yes"
    await service.put(BASE, "plain")
    assert served(await service.decide(BASE, context=types_pb2.AnswerContext())) == "plain"


# ---- modes and age -------------------------------------------------------------------------------------------


async def test_bypass_neither_reads_nor_fills(service: Service) -> None:
    await service.put(BASE, "old")
    decision = await service.decide(BASE, cache=cache(mode=Mode.CACHE_MODE_BYPASS))
    assert decision.WhichOneof("outcome") == "plan"
    assert decision.plan.fill_token == ""
    assert not decision.plan.HasField("candidate")
    assert await kind_of(service.report(decision, fill_token="made" + "up", answer="new")) == "FILL_TOKEN_USED"
    assert served(await service.decide(BASE)) == "old"


async def test_refresh_does_not_read_but_fills(service: Service) -> None:
    await service.put(BASE, "old")
    decision = await service.decide(BASE, cache=cache(mode=Mode.CACHE_MODE_REFRESH))
    assert decision.WhichOneof("outcome") == "plan"
    assert (await service.report(decision, answer="new")).stored
    assert served(await service.decide(BASE)) == "new"


async def test_an_answer_that_is_too_old_for_the_caller_is_not_served(service: Service) -> None:
    await service.put(BASE, "yes")
    young, old = cache(max_age=Duration(seconds=3600)), cache(max_age=Duration(nanos=1))
    for asked in (BASE, SAME):
        assert served(await service.decide(asked, cache=young)) == "yes"
        decision = await service.decide(asked, cache=old)
        assert decision.plan.candidate.refused_by == "too_old"


async def test_an_answer_lapses(service: Service) -> None:
    await service.put(BASE, "yes", ttl=Duration(nanos=1))
    for asked in (BASE, SAME):
        decision = await service.decide(asked)
        assert decision.WhichOneof("outcome") == "plan"
        assert not decision.plan.HasField("candidate")
    assert (await service.put(BASE, "again")).replaced
    assert served(await service.decide(BASE)) == "again"


@pytest.mark.parametrize(("ttl_s", "alive"), [(0, True), (1e-9, False)])
async def test_without_a_ttl_the_settings_hold(root: Path, ttl_s: float, alive: bool) -> None:  # noqa: FBT001
    async with running(root, cache={"ttl_s": ttl_s}) as service:
        await service.put(BASE, "yes")
        await service.put(SAME, "long", ttl=Duration(seconds=1000))
        assert (served(await service.decide(BASE, cache=cache(mode=Mode.CACHE_MODE_EXACT_ONLY))) == "yes") == alive
        assert served(await service.decide(SAME)) == "long"
        listed = (await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())).answers
        assert [answer.HasField("expires_at") for answer in listed] == [bool(ttl_s), True]


@pytest.mark.parametrize("seconds", [10**9, 300 * 10**9])
async def test_a_very_long_ttl_is_listed_with_a_date_there_is(service: Service, seconds: int) -> None:
    await service.put(BASE, "yes", ttl=Duration(seconds=seconds))
    assert served(await service.decide(BASE)) == "yes"
    listed = (await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())).answers
    assert listed[0].expires_at.ToDatetime().year > 2050


@pytest.mark.parametrize("seconds", [10**12, 2**62, 2**63 - 1])
async def test_a_ttl_beyond_what_a_duration_may_hold_is_refused(service: Service, seconds: int) -> None:
    with pytest.raises(InvalidRequest, match=r"^ttl: "):
        await service.put(BASE, "yes", ttl=Duration(seconds=seconds))


async def test_without_a_cache_nothing_is_stored_or_served(root: Path) -> None:
    async with running(root, cache={"enabled": False}) as service:
        decision = await service.decide(BASE)
        assert decision.plan.steps
        assert decision.plan.fill_token == ""
        with pytest.raises(PreconditionFailed):
            await service.put(BASE, "yes")
        assert service.runtime.decider.answers.view.answers == 0


# ---- fills ---------------------------------------------------------------------------------------------------


async def kind_of(coroutine: Any) -> str:
    """Return the type of the precondition that failed."""
    with pytest.raises(PreconditionFailed) as error:
        await coroutine
    status = to_status(error.value)
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    return str(failure.violations[0].type)


async def test_a_reported_answer_is_served_from_then_on(service: Service) -> None:
    decision = await service.decide(BASE)
    done = await service.report(decision, answer="yes", source_tags=["a", "b", "a"], finish_reason="stop")
    assert (done.stored, done.not_stored_because, done.removed) == (True, "", 0)
    answer = (await service.decide(SAME)).answer
    assert (answer.content, answer.model, answer.entry_id) == ("yes", "small-1", done.entry_id)
    listed = (await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())).answers
    assert list(listed[0].source_tags) == ["a", "b"]


async def test_a_token_is_good_once(service: Service) -> None:
    decision = await service.decide(BASE)
    await service.report(decision, answer="first")
    assert await kind_of(service.report(decision, answer="second")) == "FILL_TOKEN_USED"
    assert served(await service.decide(BASE)) == "first"


async def test_of_many_reports_at_once_with_one_token_one_is_stored(service: Service) -> None:
    decision = await service.decide(BASE)
    done = await asyncio.gather(*(service.report(decision, answer=str(i)) for i in range(20)), return_exceptions=True)
    stored = [one for one in done if isinstance(one, router_pb2.ReportResponse)]
    assert len(stored) == 1
    assert sum(isinstance(one, PreconditionFailed) for one in done) == 19


@pytest.mark.parametrize("token", ["made up", "é", "0" * 24])
async def test_a_forged_token_stores_nothing_and_leaves_the_real_one_good(service: Service, token: str) -> None:
    decision = await service.decide(BASE)
    assert await kind_of(service.report(decision, fill_token=token)) == "FILL_TOKEN_UNKNOWN"
    assert (await service.report(decision)).stored


async def test_the_token_of_another_decision_stores_nothing(service: Service) -> None:
    one, other = await service.decide(BASE), await service.decide("another question")
    assert await kind_of(service.report(one, fill_token=other.plan.fill_token)) == "FILL_TOKEN_UNKNOWN"
    assert service.runtime.decider.answers.view.answers == 0


async def test_a_token_of_a_served_answer_is_none(service: Service) -> None:
    await service.put(BASE, "yes")
    hit = await service.decide(BASE)
    assert await kind_of(service.report(hit, fill_token="0" * 24)) == "FILL_TOKEN_USED"


async def test_a_lapsed_token_stores_nothing(root: Path) -> None:
    async with running(root, cache={"lease_s": 1e-9}) as service:
        decision = await service.decide(BASE)
        assert await kind_of(service.report(decision)) == "FILL_TOKEN_LAPSED"


async def test_a_report_on_an_unknown_decision_is_not_found(service: Service) -> None:
    with pytest.raises(NotFound, match=r"decisions\.keep"):
        await service.report(router_pb2.DecideResponse(decision_id="0" * 24))


async def test_a_forgotten_decision_is_not_found(root: Path) -> None:
    async with running(root, decisions={"keep": 2}) as service:
        decisions = [await service.decide(f"question {i}") for i in range(3)]
        with pytest.raises(NotFound):
            await service.report(decisions[0])
        assert (await service.report(decisions[1])).stored


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"finish_reason": "length"}, "finish_reason 'length'"),
        ({"finish_reason": "content_filter"}, "finish_reason 'content_filter'"),
        ({"finish_reason": "max_tokens"}, "finish_reason 'max_tokens'"),
        ({"answer": ""}, "empty"),
        ({"answer": " \n"}, "empty"),
        ({"answer": "\u200b\ufeff\x00\u00a0"}, "empty"),
        ({"answer": "", "chunks": ["", " "]}, "empty"),
        ({"outcome": types_pb2.OUTCOME_ERROR}, "outcome was not OK"),
        ({"outcome": types_pb2.OUTCOME_TIMEOUT}, "outcome was not OK"),
        ({"outcome": types_pb2.OUTCOME_REFUSED}, "outcome was not OK"),
        ({"outcome": types_pb2.OUTCOME_CANCELLED}, "outcome was not OK"),
        ({"answer": "x" * 2049}, "cache.max_answer_kib (2)"),
        ({"answer": "é" * 1025}, "cache.max_answer_kib (2)"),
    ],
)
async def test_what_is_no_complete_answer_is_not_stored(root: Path, fields: dict[str, Any], because: str) -> None:
    async with running(root, cache={"max_answer_kib": 2}) as service:
        decision = await service.decide(BASE)
        done = await service.report(decision, **fields)
        assert not done.stored
        assert done.entry_id == ""
        assert because in done.not_stored_because
        assert (await service.decide(BASE)).WhichOneof("outcome") == "plan"


@pytest.mark.parametrize(
    "reason",
    ["", "stop", "tool_calls", "end_turn", "tool_use", "STOP", "COMPLETE", "TOOL_CALL", "eos_token", "completed"],
)
async def test_every_provider_s_word_for_complete_is_known(service: Service, reason: str) -> None:
    assert (await service.report(await service.decide(BASE), finish_reason=reason)).stored


async def test_a_report_without_a_token_stores_nothing(service: Service) -> None:
    done = await service.report(await service.decide(BASE), fill_token="")
    assert (done.stored, done.not_stored_because) == (False, "")


async def test_a_wrong_answer_is_removed(service: Service) -> None:
    await service.put(BASE, "wrong")
    hit = await service.decide(SAME)
    done = await service.report(hit, answer_wrong=True, model="", outcome=0, answer="")
    assert done.removed == 1
    assert (await service.decide(SAME)).WhichOneof("outcome") == "plan"
    again = await service.report(hit, answer_wrong=True, model="", outcome=0, answer="")
    assert again.removed == 0


async def test_a_late_complaint_does_not_remove_what_was_put_right_meanwhile(service: Service) -> None:
    await service.put(BASE, "wrong")
    hit = await service.decide(SAME)
    await service.put(BASE, "right")
    done = await service.report(hit, answer_wrong=True, model="", outcome=0, answer="")
    assert done.removed == 0
    assert served(await service.decide(BASE)) == "right"


async def test_a_served_answer_that_was_not_wrong_stays(service: Service) -> None:
    await service.put(BASE, "right")
    hit = await service.decide(BASE)
    assert (await service.report(hit, answer_wrong=False, model="", outcome=0, answer="")).removed == 0
    assert served(await service.decide(BASE)) == "right"


async def test_reports_are_counted_once_each(service: Service) -> None:
    decision = await service.decide(BASE)
    for _ in range(3):
        await service.report(decision, fill_token="", usage=types_pb2.Usage(cost_usd=0.5))
    stats = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope="default"))
    assert dict(stats.reports_by_outcome) == {"ok": 1}
    assert stats.reported_cost_usd == 0.5


# ---- invalidation --------------------------------------------------------------------------------------------


async def stocked(service: Service) -> dict[str, str]:
    """Store some answers and return their prompts by entry."""
    rows = [
        ("red apple pie", "m1", ["fruit"]),
        ("red cherry pie", "m2", ["fruit", "small"]),
        ("a steel bridge", "m1", ["metal"]),
        ("a wooden bridge", "m2", ["small"]),
    ]
    return {
        (await service.put(prompt, f"on {prompt}", model=model, source_tags=tags)).entry_id: prompt
        for prompt, model, tags in rows
    }


HOUR = Duration(seconds=3600)
NOW = Duration(nanos=1)


@pytest.mark.parametrize(
    ("condition", "gone"),
    [
        ({"all": True}, {"red apple pie", "red cherry pie", "a steel bridge", "a wooden bridge"}),
        ({"source_tags": ["fruit"]}, {"red apple pie", "red cherry pie"}),
        ({"source_tags": ["metal", "small"]}, {"red cherry pie", "a steel bridge", "a wooden bridge"}),
        ({"source_tags": ["nothing"]}, set()),
        ({"model": "m1"}, {"red apple pie", "a steel bridge"}),
        ({"older_than": HOUR}, set()),
        ({"older_than": NOW}, {"red apple pie", "red cherry pie", "a steel bridge", "a wooden bridge"}),
        ({"radius": {"prompt": "red apple pie", "min_similarity": 0.99}}, {"red apple pie"}),
        ({"radius": {"prompt": "pie red", "min_similarity": 0.5}}, {"red apple pie", "red cherry pie"}),
        ({"source_tags": ["small"], "model": "m2"}, {"red cherry pie", "a wooden bridge"}),
        ({"source_tags": ["fruit"], "model": "m2", "older_than": NOW}, {"red cherry pie"}),
        ({"source_tags": ["fruit"], "older_than": HOUR}, set()),
        ({"model": "m1", "radius": {"prompt": "pie red", "min_similarity": 0.5}}, {"red apple pie"}),
        ({"entry_ids": ["nobody"]}, set()),
    ],
)
async def test_what_is_meant_is_removed_and_nothing_else(
    service: Service, condition: dict[str, Any], gone: set[str]
) -> None:
    prompts = await stocked(service)
    dry = await service.invalidate(**condition, dry_run=True)
    assert {prompts[entry] for entry in dry.entry_ids} == gone
    assert dry.removed == len(gone)
    assert service.runtime.decider.answers.view.answers == 4
    real = await service.invalidate(**condition)
    assert (real.removed, sorted(real.entry_ids)) == (dry.removed, sorted(dry.entry_ids))
    for prompt in prompts.values():
        exact = await service.decide(prompt, cache=cache(mode=Mode.CACHE_MODE_EXACT_ONLY))
        assert (exact.WhichOneof("outcome") == "plan") == (prompt in gone)
        spaced = await service.decide(prompt.replace(" ", "  "))
        assert (spaced.answer.matched_prompt == prompt) == (prompt not in gone)


async def test_an_entry_is_removed_by_its_id(service: Service) -> None:
    prompts = await stocked(service)
    (wanted, *_) = prompts
    assert (await service.invalidate(entry_ids=[wanted, wanted, "nobody"])).removed == 1
    assert (await service.invalidate(entry_ids=[wanted], model="m1")).removed == 0
    assert service.runtime.decider.answers.view.answers == 3


async def test_at_most_a_thousand_of_the_removed_are_listed(service: Service) -> None:
    await asyncio.gather(*(service.put(f"question {i}", "yes") for i in range(1_005)))
    found = await service.invalidate(all=True)
    assert (found.removed, len(found.entry_ids)) == (1_005, 1_000)


# ---- listing -------------------------------------------------------------------------------------------------


async def listed(service: Service, page_size: int) -> list[cache_pb2.StoredAnswer]:
    found: list[cache_pb2.StoredAnswer] = []
    token = ""
    while True:
        page = await service.call(
            "Cache.ListAnswers", cache_pb2.ListAnswersRequest(page_size=page_size, page_token=token)
        )
        assert len(page.answers) <= (page_size or 100)
        found += page.answers
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize("page_size", [0, 1, 7, 10, 1_000])
async def test_pages_together_list_every_answer_once_oldest_first(service: Service, page_size: int) -> None:
    for i in range(110 if page_size == 0 else 20):
        await service.put(f"question {i}", f"answer {i}", source_tags=[str(i)], model="m")
    answers = await listed(service, page_size)
    assert [answer.content for answer in answers] == [f"answer {i}" for i in range(len(answers))]
    assert len(answers) == (110 if page_size == 0 else 20)
    one = answers[3]
    assert (one.prompt, one.model, list(one.source_tags), one.content_type) == ("question 3", "m", ["3"], "text/plain")
    assert len(bytes.fromhex(one.context_fingerprint)) == 16
    assert abs(one.stored_at.ToSeconds() - time.time()) < 3600


async def test_paging_misses_nothing_that_stays_while_answers_come_and_go(service: Service) -> None:
    for i in range(30):
        await service.put(f"question {i}", "yes")
    seen: list[str] = []
    token = ""
    for step in range(100):
        page = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest(page_size=4, page_token=token))
        seen += [answer.prompt for answer in page.answers]
        token = page.next_page_token
        if not token:
            break
        await service.put(f"question {step}", "again")  # moves to the end
        await service.invalidate(radius={"prompt": f"question {20 + step}", "min_similarity": 0.999})
        await service.put(f"new {step}", "yes")
    assert {f"question {i}" for i in range(8, 20)} <= set(seen)
    assert len(set(seen)) == len(seen) - sum(seen.count(prompt) - 1 for prompt in set(seen))


async def test_a_page_of_large_answers_ends_early_and_loses_none(service: Service) -> None:
    for i in range(12):
        await service.put(f"question {i}", f"{i:02}" + "x" * 1_000_000)
    answers = await listed(service, 1_000)
    assert [answer.content[:2] for answer in answers] == [f"{i:02}" for i in range(12)]
    first = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest(page_size=1_000))
    assert 1 <= len(first.answers) < 12
    assert first.ByteSize() < 9 * 2**20


class CountingStore(MemoryStore):
    """Counts what is read page by page."""

    read = 0

    def scan(self, kind: Kind, scope: str, *, after: int = 0, limit: int = 100) -> list[Change]:
        found = super().scan(kind, scope, after=after, limit=limit)
        self.read += len(found)
        return found


@pytest.mark.parametrize(("mib", "shown"), [(16, 8), (2, 1)])
async def test_a_page_of_large_answers_reads_little_more_than_it_shows(root: Path, mib: int, shown: int) -> None:
    store = CountingStore()
    async with running(root, store=store, server={"max_message_mib": mib}) as service:
        for i in range(40):
            await service.put(f"question {i}", "x" * 1_000_000)
        page = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest(page_size=1_000))
        assert len(page.answers) == shown
        assert page.ByteSize() < mib << 20
        assert store.read <= 16


async def test_answers_that_do_not_fit_into_a_batch_s_response_say_so_and_the_others_are_there(root: Path) -> None:
    async with running(root, server={"max_message_mib": 2}) as service:
        for i in range(5):
            await service.put(f"question {i}", "x" * 900_000)
        prompts = [*(f"question {i}" for i in range(5)), "something else"]
        batch = router_pb2.DecideBatchRequest(requests=[router_pb2.DecideRequest(prompt=p) for p in prompts])
        response = await service.call("Router.DecideBatch", batch)
        assert response.ByteSize() < 2 << 20
        told = [result.failure for result in response.results if result.HasField("failure")]
        assert [failure.code for failure in told] == [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 3
        assert "server.max_message_mib (2)" in told[0].message
        assert response.results[-1].response.plan.steps
        # What reached nobody is neither counted nor remembered.
        stats = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope="default"))
        assert (stats.decisions, stats.exact_hits) == (3, 2)
        assert len(service.runtime.decider.log) == 3


# ---- capacity ------------------------------------------------------------------------------------------------


async def test_a_full_scope_lets_its_oldest_go_and_no_other_scope_s(root: Path) -> None:
    async with running(root, cache={"max_answers": 5}) as service:
        await service.put("elsewhere", "yes", "other")
        for i in range(8):
            await service.put(f"question {i}", str(i))
        assert [answer.content for answer in await listed(service, 0)] == ["3", "4", "5", "6", "7"]
        await service.put("question 3", "renewed")  # an answer that is replaced makes nobody go, and is young again
        await service.put("question 8", "8")
        assert [answer.content for answer in await listed(service, 0)] == ["5", "6", "7", "renewed", "8"]
        assert served(await service.decide("elsewhere", "other")) == "yes"
        assert (await service.decide("question 4")).WhichOneof("outcome") == "plan"


async def test_a_scope_never_holds_more_than_its_capacity_when_many_put_at_once(root: Path) -> None:
    async with running(root, cache={"max_answers": 10}) as service:
        for _ in range(3):
            await asyncio.gather(*(service.put(f"question {i}", str(i)) for i in range(50)))
            assert service.runtime.decider.answers.view.count("default")[0] <= 10


async def test_what_is_required_of_a_model_is_required_of_who_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("prove the hard theorem", "thus", model="small")

        async def served(**route: Any) -> bool:
            found = await service.decide("prove the hard theorem", route=types_pb2.RouteControl(**route))
            return bool(found.HasField("answer"))

        assert await served(require=["json"])
        assert not await served(require=["json", "tools"])
        assert await served(min_quality=0)
        assert not await served(min_quality=0.9)
        reviewed = types_pb2.PLAN_SHAPE_CASCADE
        assert await served(min_quality=0.9, shape=reviewed), "what a cascade took is as good as it was to be"
