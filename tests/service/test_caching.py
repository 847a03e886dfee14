"""What a log says of the cache: the service's own decisions, simpler caches by hand, and the command around them."""

import json
import re
import uuid
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.errors import InputError
from service.evaluation.caching import Evaluation, Report, run, to_text, write
from service.evaluation.caching.figures import WrongHit
from service.evaluation.caching.fixed import Calls, Nearest, above, best_within, every_threshold, exact_only, play
from service.evaluation.caching.player import Passed
from service.evaluation.caching.report import explained
from service.settings import Settings, load_settings
from tests.conftest import SHARED_DATA, Server, run_waypost
from tests.e2e.kit import NO_BUDGET, Client

SHOP = Path(__file__).parent / "logs" / "shop.jsonl"
BANKING = SHARED_DATA / "cache" / "banking77.jsonl.gz"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in SHOP.read_text(encoding="utf-8").splitlines()]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(path: Path, *rows: dict[str, Any], settings: Settings | None = None, **options: Any) -> Report:
    """Return the report on some rows, with no other budget than the settings' own unless asked for."""
    return run(Evaluation([written(path, list(rows))], **{"budgets": (), **options}), settings or load_settings())


def without_budget() -> Settings:
    return load_settings(None, {"cache": {"error_budget": 1}})


@pytest.fixture(scope="module")
def shop() -> Report:
    return run(Evaluation([SHOP], budgets=(0.01, 0.05)), load_settings())


# ---- the service plays --------------------------------------------------------------------------------------


def test_a_log_is_answered_within_its_budget_and_better_than_by_exact_hits(shop: Report) -> None:
    found = shop.figures
    assert found.main.calls == len(ROWS)
    assert found.main.hits > found.exact_only.hits
    assert found.main.wrong <= 0.01
    assert found.main.hits <= (found.answerable or 0.0) <= 1.0
    assert found.points[1].service.hits > found.points[0].service.hits
    assert all(point.service.wrong <= point.budget and not point.broken for point in found.points)
    assert {account.scope for account in found.accounts} == {"shop", "outlet"}
    assert found.audits * len(ROWS) == pytest.approx(sum(account.audits for account in found.accounts))


def test_what_is_saved_is_what_the_answered_calls_had_cost(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Where is it?", "answer": "There.", "cost": 2**i, "seconds": 10 * i} for i in range(5)
    ]
    found = asked(tmp_path / "log.jsonl", *rows).figures
    assert (found.main.hits, found.main.exact, found.main.wrong) == (0.8, 0.8, 0.0)
    assert (found.main.saved_usd, found.main.saved_seconds) == (2 + 4 + 8 + 16, 10 + 20 + 30 + 40)
    assert (found.priced, found.timed) == (5, 5)


def test_prices_come_from_the_catalogue_where_the_log_has_none(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        "".join(
            f'[[models]]\nid = "{name}"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = {price}\n'
            f"context_window = 8000\nlatency_ms = 500\ntokens_per_s = 100\n"
            for name, price in (("dear", 40.0), ("cheap", 10.0))
        )
    )
    row = {"prompt": "Where is it?", "answer": "x" * 400}
    found = asked(tmp_path / "log.jsonl", row, {**row, "model": "dear"}, row, models=tmp_path / "models.toml")
    assert found.figures.main.saved_usd == pytest.approx(100 * (40 + 10) / 1e6)
    assert found.figures.main.saved_seconds == pytest.approx(2 * 1.5)
    assert "cheap" in found.prices
    nothing = asked(tmp_path / "log.jsonl", row, row)
    assert (nothing.figures.main.saved_usd, nothing.figures.priced) == (0.0, 0)
    assert "money saved" in to_text(nothing)
    assert "not known" in to_text(nothing)


def test_the_same_seed_gives_the_same_report() -> None:
    one, again, other = (
        run(Evaluation([SHOP], budgets=(0.02,), seed=seed), load_settings()).to_dict() for seed in (1, 1, 2)
    )
    for report in (one, again, other):
        del report["figures"]["decide_ms"], report["seed"]
    assert one == again
    assert one != other


def test_the_service_decides_the_same_over_its_socket(server: Server) -> None:
    client, scope = Client(server.address), f"test-{uuid.uuid4().hex}"
    found = run(Evaluation([SHOP], budgets=()), without_budget())
    kinds: list[int] = []
    wrong = 0
    said: dict[str, str] = {}
    for row in ROWS:
        decision = client.decide(row["prompt"], f"{scope}-{row['scope']}", cache=NO_BUDGET)
        if decision.WhichOneof("outcome") == "answer":
            kinds.append(decision.answer.match)
            wrong += said[decision.answer.entry_id] != row["label"]
            continue
        done = client.report(decision, row["answer"], model=decision.plan.steps[0].model, finish_reason="stop")
        said[done.entry_id] = row["label"]
    client.close()
    assert found.figures.main.hits == pytest.approx(len(kinds) / len(ROWS))
    assert found.figures.main.exact == pytest.approx(kinds.count(1) / len(ROWS))
    assert found.figures.main.wrong == pytest.approx(wrong / len(ROWS))


def test_answers_lapse_by_the_times_of_the_log(tmp_path: Path) -> None:
    hour = [{"prompt": "Where is it?", "answer": "There.", "time": 1e9 + 3_600 * i} for i in range(6)]
    settings = load_settings(None, {"cache": {"ttl_s": 2.5 * 3_600, "ttl_jitter": 0}})
    found = asked(tmp_path / "log.jsonl", *hour, settings=settings).figures
    assert found.main.hits == found.exact_only.hits == pytest.approx(4 / 6)
    never = load_settings(None, {"cache": {"ttl_s": 0}})
    found = asked(tmp_path / "log.jsonl", *hour, settings=never).figures
    assert found.main.hits == found.exact_only.hits == pytest.approx(5 / 6)


def test_scopes_contexts_and_what_is_not_stored_are_as_in_the_service(tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": "Where is it?", "answer": "There.", "label": "where"}
    rows = [row, {**row, "scope": "other"}, {**row, "context": "Be brief."}, {**row, "context": {"tools": "[]"}}]
    mail = {"prompt": "To whom do I write?", "answer": "To jane@example.com.", "label": "mail"}
    found = asked(tmp_path / "log.jsonl", *rows, mail, mail).figures
    assert found.main.hits == found.exact_only.hits - 1 / 6 == 0.0
    [(why, count)] = found.not_stored.items()
    assert count == 2
    assert "personal data" in why


def test_without_labels_what_nobody_can_tell_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    near = "Your parcel is on its way and comes tomorrow before noon."
    nearer = "Your parcel is on its way; we cannot say when it will come."
    far = "Bake the bread for forty minutes at two hundred degrees."
    rows = [{"prompt": "Where is my parcel?", "answer": answer} for answer in (near, near, nearer, far)]
    report = asked(tmp_path / "log.jsonl", *rows)
    found = report.figures
    assert (found.main.hits, found.main.wrong, found.main.unknown) == (0.75, 0.25, 0.25)
    assert (found.exact_only.wrong, found.exact_only.unknown) == (0.25, 0.25)
    assert found.answerable is None
    assert report.truth == report.learned_from == "answers"
    assert [hit.got for hit in found.worst] == [near]
    assert found.worst[0].wanted == far


def test_a_wrong_hit_is_shown_beside_what_it_was_taken_for_with_why_it_passed(tmp_path: Path) -> None:
    rows = [
        {"prompt": "How do I change my PIN?", "label": "change"},
        {"prompt": "How can I change my PIN?", "label": "other"},
        {"prompt": "How do I change my PIN?", "label": "third"},
    ]
    report = asked(tmp_path / "log.jsonl", *rows, settings=without_budget())
    semantic, exact = report.figures.worst
    assert (semantic.prompt, semantic.matched) == (rows[1]["prompt"], rows[0]["prompt"])
    assert (semantic.wanted, semantic.got) == ("other", "change")
    assert semantic.place.endswith(":2")
    assert semantic.from_place.endswith(":1")
    assert semantic.passed is not None
    assert semantic.cosine > 0.9
    assert semantic.passed.aligned["same_words"] >= 0
    assert exact.exact
    assert exact.passed is None
    text = to_text(report)
    assert "got       change" in text
    assert "guard     no check found a difference: too_long" in text
    assert "exact     the same words" in text


def test_a_check_that_was_outweighed_is_named() -> None:
    passed = Passed("", 0.1, 0.9, {}, {}, 0.05, "numbers_differ")
    assert explained(passed, 0.01)[0] == ("guard", "numbers_differ is outweighed by this scope's verdicts")


def test_a_near_miss_is_counted_by_the_check_that_refused_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"How long is a shoe of size {size}?", "label": str(size)} for size in (40, 42, 44)]
    [refusal] = asked(tmp_path / "log.jsonl", *rows).figures.refusals
    assert (refusal.why, refusal.candidates, refusal.right) == ("numbers_differ", 2, 0)


def test_the_index_brings_its_models_and_the_policy(starter_index: Path) -> None:
    settings = load_settings(None, {"index": {"path": starter_index}})
    report = run(Evaluation([SHOP], index=True, budgets=()), settings)
    assert report.figures.main.calls == len(ROWS)
    with pytest.raises(InputError, match="leave out --models"):
        run(Evaluation([SHOP], index=True, models=Path("models.toml")), settings)


def test_options_that_make_no_sense_are_named() -> None:
    with pytest.raises(InputError, match="the rows have times"):
        run(Evaluation([SHOP], shuffle=True), load_settings())
    with pytest.raises(InputError, match="--budget: 2 must be"):
        run(Evaluation([SHOP], budgets=(2.0,)), load_settings())
    with pytest.raises(InputError, match=r"cache\.enabled"):
        run(Evaluation([SHOP]), load_settings(None, {"cache": {"enabled": False}}))


@pytest.mark.skipif(not BANKING.exists(), reason="the measuring data is not here")
def test_a_banks_questions_are_answered_within_the_budget() -> None:
    evaluation = Evaluation([BANKING], columns={"prompt": "text"}, shuffle=True, limit=1_500, budgets=(0.05,))
    found = run(evaluation, load_settings()).figures
    [point] = found.points
    assert point.service.wrong <= 0.05
    assert point.service.hits > found.main.hits > found.exact_only.hits
    assert len(found.categories) > 5


# ---- simpler caches -----------------------------------------------------------------------------------------

VECTORS = np.array([[1, 0], [0.95, 0.3122], [0, 1], [1, 0], [0.8, 0.6]], np.float32)


def calls(labels: str, places: list[int] | None = None, **more: Any) -> Calls:
    return Calls([0, 1, 2, 0, 4], places or [0] * 5, lambda one, other: labels[one] == labels[other], **more)


def test_a_fixed_cosine_serves_the_nearest_that_is_stored() -> None:
    found = play(calls("aabab"), Nearest(VECTORS), above(0.9))
    assert found.hits.tolist() == [False, True, False, True, False]
    assert found.exact.tolist() == [False, False, False, True, False]
    low = play(calls("aabab"), Nearest(VECTORS), above(0.7))
    assert low.hits.tolist() == [False, True, False, True, True]
    assert low.wrong.tolist() == [False, False, False, False, True]
    assert exact_only(calls("aabab")).hits.tolist() == [False, False, False, True, False]


def test_other_scopes_are_not_looked_at() -> None:
    found = play(calls("aaaaa", [0, 1, 0, 0, 1]), Nearest(VECTORS, [0, 1, 0, 0, 1]), above(0.7))
    assert found.hits.tolist() == [False, False, False, True, True]


def test_what_has_lapsed_is_not_served() -> None:
    timed = calls("aaaaa", at=[0, 1, 2, 3, 4], lapses=[2, 3, 4, 5, 6])
    assert play(timed, Nearest(VECTORS), above(0.9)).hits.tolist() == [False, True, False, False, False]


def test_the_best_threshold_in_hindsight_keeps_the_budget() -> None:
    tried = every_threshold(calls("aabab"), Nearest(VECTORS))
    best = best_within(tried, 0.0)
    assert best is not None
    assert best[1].hits.sum() == 2
    loose = best_within(tried, 0.2)
    assert loose is not None
    assert loose[1].hits.sum() == 3


def test_what_nobody_can_tell_of_is_within_no_budget() -> None:
    def nobody(one: int, other: int) -> bool | None:
        return True if abs(one - other) in (1, 3) else None

    tried = every_threshold(Calls([0, 1, 2, 0, 4], [0] * 5, nobody), Nearest(VECTORS))
    for budget, hits in ((0.0, 2), (0.2, 3)):
        best = best_within(tried, budget)
        assert best is not None
        assert not best[1].wrong.any()
        assert best[1].hits.sum() == hits


def test_no_figure_counts_what_nobody_can_tell_of_as_right(shop: Report, tmp_path: Path) -> None:
    main = replace(shop.figures.main, wrong=0.0, unknown=0.4)
    unclear = replace(shop, budget=0.01, figures=replace(shop.figures, main=main, points=[]))
    page = write(unclear, tmp_path)[-1].read_text(encoding="utf-8")
    assert '<span class="bad">0.00 %</span>' in page
    assert "40.00 % unknown; 1.00 % allowed" in page


# ---- the report and the command -----------------------------------------------------------------------------


class Tags(HTMLParser):
    """Counts what is opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002 - as the parser calls it
        if tag not in {"meta", "img", "br", "input", "p"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "p":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else_and_shows_prompts_as_they_are(shop: Report, tmp_path: Path) -> None:
    passed = Passed("<i>", 0.1, 0.9, {"typos": 1.0}, {"votes": 2.0}, 0.05)
    wrong = WrongHit("a:1", "<script>alert(1)</script>", "<b>", "a:2", "<i>", "&", "x", False, 0.97, 0.99, passed)
    written = write(replace(shop, figures=replace(shop.figures, worst=[wrong])), tmp_path)
    assert [path.name for path in written] == [
        "report.json", "hits_errors.png", "over_time.png", "budgets.png", "report.html",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in written[1:-1])
    page = written[-1].read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 3
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    text = " ".join(tags.text)
    for said in ("By error budget", "By category", "Near misses", "why they passed", "numbers_differ", "typos 1"):
        assert said in text
    assert "<script>alert(1)</script>" in text
    assert json.loads(written[0].read_text(encoding="utf-8"))["figures"]["main"]["calls"] == len(ROWS)


def test_a_report_without_hits_or_prices_is_drawn_too(tmp_path: Path) -> None:
    report = asked(tmp_path / "log.jsonl", {"prompt": "Why?", "answer": "So."}, budgets=(0.01,))
    assert len(write(report, tmp_path / "report")) == 5
    assert "exact only" in to_text(report)
    for budget in (0, 1):
        settings = load_settings(None, {"cache": {"error_budget": budget}})
        report = asked(tmp_path / "log.jsonl", *ROWS[:30], settings=settings)
        assert len(write(report, tmp_path / "report")) == 4


def test_the_command_prints_and_writes_and_routing_is_evaluated_as_before(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", [*ROWS[:60], {"prompt": 5}])
    done = run_waypost("evaluate", "cache", path)
    assert done.returncode == 1
    assert "log.jsonl:61: prompt: must be text" in done.stderr
    done = run_waypost(
        "evaluate", "cache", path, "--on-error", "skip", "--budget", ".05", "--output", tmp_path / "report", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "1 row was left out" in done.stderr
    assert json.loads(done.stdout)["figures"]["points"][0]["budget"] == 0.05
    assert (tmp_path / "report" / "report.html").exists()
    done = run_waypost("evaluate", "cache", path, "--limit", "20", "--budget", ".05")
    assert "What the cache would have done" in done.stdout
    assert "Missing option '--references'" in run_waypost("evaluate").stderr
    mixed = run_waypost("evaluate", "--references", path, "--seed", "3", "cache", path)
    assert "cache comes first" in mixed.stderr
