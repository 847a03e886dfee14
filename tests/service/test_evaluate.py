"""The figures by hand on tiny cases, what must hold of them always, and the command around them."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.catalogue import Catalogue
from index.errors import InputError
from index.records import Model, Reference
from service.client import CallError
from service.evaluation import Evaluation, Service, run, to_text, write
from service.evaluation.answers import Answered, Near, Prior, join
from service.evaluation.data import Rows, as_rows, folds, sample
from service.evaluation.details import Regret
from service.evaluation.figures import Part, Trial, measure
from service.evaluation.metrics import Floats
from service.settings import Settings, load_settings
from tests.conftest import Server, run_waypost


def floats(*values: float) -> Floats:
    return np.array(values, np.float64)


# ---- what must always hold ----------------------------------------------------------------------------------


def trial(seed: int, models: int, rows: int = 60) -> Trial:
    """Random outcomes with a router that knows something of them."""
    random = np.random.default_rng(seed)
    quality = random.integers(0, 2, (rows, models)).astype(np.float64)
    quality[0, 0], quality[1, 0] = 1.0, 1.0
    cost = np.geomspace(1e-4, 1e-2, models) * random.uniform(0.5, 1.5, (rows, 1))
    estimated = np.clip(0.5 * quality + random.uniform(0, 0.5, quality.shape), 0, 1)
    references = [Reference(str(i), "x" * int(n)) for i, n in enumerate(random.integers(1, 50, rows))]
    known = Rows("scores", references, np.arange(rows), tuple(f"m{i}" for i in range(models)), quality, cost, False)
    prior = Prior(quality[::-1], cost[::-1], np.zeros(rows, np.int64), 2)
    answered = Answered(
        estimated, cost, estimated.argmax(axis=1), np.zeros(rows, np.bool_), ("g",), np.zeros(rows, np.int64), prior
    )
    return Trial(known, answered, np.arange(rows))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_oracle_is_never_beaten(seed: int, models: int) -> None:
    part = measure([trial(seed, models)], 0, 0)
    oracle = part.policies["oracle"]
    for figures in (*part.policies.values(), *part.single_models.values()):
        for name in {"quality", "apgr"} & figures.keys():
            if not np.isnan(oracle[name]):
                assert figures[name] <= oracle[name] + 1e-9
        # Its curve is swept in steps, so its hull may miss a corner by a little.
        assert figures.get("aiq", 0) <= oracle["aiq"] + 0.01


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_baselines_stand_in_order(seed: int, models: int) -> None:
    part = measure([trial(seed, models)], 0, 0)
    assert part.policies["best single model"]["quality"] >= part.policies["cheapest model"]["quality"]
    assert part.policies["best single model"]["quality"] >= part.policies["random"]["quality"]
    assert part.policies["zero router"]["aiq"] >= part.policies["random"]["aiq"] - 1e-9
    if part.strong and not np.isnan(part.policies["random"]["apgr"]):
        assert part.policies["random"]["apgr"] == pytest.approx(0.5)
        assert part.policies["random"]["cpt80"] == pytest.approx(0.8)


def test_seeds_are_averaged_and_shown_one_by_one() -> None:
    parts = [measure([trial(seed, 2)], 0, 0) for seed in (1, 2)]
    # The two do not share rows here, so only figures that need no common frame are compared.
    both = measure([trial(1, 2), trial(1, 2)], 0, 20)
    assert both.policies["router"] == pytest.approx(parts[0].policies["router"])
    assert len(both.seeds) == 2
    low, high = both.intervals["quality"]
    assert low <= both.policies["router"]["quality"] <= high


# ---- rows and folds -----------------------------------------------------------------------------------------

CHEAP, DEAR = Model("cheap", 1.0, 2.0, 8_000), Model("dear", 10.0, 30.0, 8_000)
CATALOGUE = Catalogue((CHEAP, DEAR))


def labelled(count: int) -> list[Reference]:
    """References of two categories and two labels; every tenth prompt is there twice, but for white space."""
    rows = [
        Reference(f"r{i}", f"prompt {i}", best_model=("cheap", "dear")[i % 2], category="ab"[i // 2 % 2])
        for i in range(count)
    ]
    return rows + [replace(row, id=f"{row.id}-2", prompt=f" {row.prompt} \r\n") for row in rows[::10]]


def test_every_row_is_held_out_once_and_a_prompt_never_meets_itself() -> None:
    references = labelled(100)
    masks = list(folds(references, 5, 3))
    assert (np.sum(masks, axis=0) == 1).all()
    for held_out in masks:
        asked = {r.prompt.strip() for r, out in zip(references, held_out, strict=True) if out}
        known = {r.prompt.strip() for r, out in zip(references, held_out, strict=True) if not out}
        assert not asked & known
        inside = [r.category for r, out in zip(references, held_out, strict=True) if out]
        assert all(10 <= inside.count(category) <= 13 for category in "ab")


def test_folds_come_from_the_seed() -> None:
    one, again, other = (np.array(list(folds(labelled(50), 5, seed))) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_a_sample_of_labels_is_about_as_large_as_asked_and_leaks_nothing() -> None:
    references = labelled(200)
    held_out = sample(references, 60, 0)
    known = {r.prompt.strip() for r, out in zip(references, held_out, strict=True) if not out}
    assert 55 <= (~held_out).sum() <= 65
    assert not known & {r.prompt.strip() for r, out in zip(references, held_out, strict=True) if out}


@pytest.mark.parametrize("count", [1, 300])
def test_too_few_or_too_many_folds_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="distinct prompts"):
        list(folds(labelled(20), count, 0))


def test_missing_costs_are_the_catalogues_price_for_the_estimated_tokens() -> None:
    reference = Reference("r", "p" * 400, scores={"cheap": 1, "dear": 0}, costs={"dear": 0.5})
    (rows,) = as_rows([reference], CATALOGUE, 300)
    assert rows.cost.tolist() == [[pytest.approx((100 * 1 + 300 * 2) / 1e6), 0.5]]
    assert rows.quality.tolist() == [[1, 0]]


def test_labels_and_scores_are_measured_apart() -> None:
    references = [*labelled(3), Reference("s", "scored", scores={"cheap": 0.5, "dear": 1})]
    scores, labels = as_rows(references, CATALOGUE, 300)
    assert (scores.kind, scores.at.tolist()) == ("scores", [3 + 1])
    assert (labels.kind, len(labels)) == ("labels", 4)


def test_models_that_never_answered_the_same_prompt_cannot_be_compared() -> None:
    references = [Reference("a", "a", scores={"cheap": 1}), Reference("b", "b", scores={"dear": 1})]
    with pytest.raises(InputError, match="must have answered the same prompts"):
        as_rows(references, CATALOGUE, 300)
    with pytest.raises(InputError, match="only one model is scored"):
        as_rows(references[:1], CATALOGUE, 300)


def test_a_hole_costs_its_row_and_not_its_model() -> None:
    names = CATALOGUE.ids
    whole = [Reference(f"r{i}", f"prompt {i}", scores=dict.fromkeys(names, 0.5)) for i in range(10)]
    failed = Reference("hole", "one call failed", scores={names[0]: 1.0})
    (rows,) = as_rows([failed, *whole], CATALOGUE, 300)
    assert (rows.models, len(rows), rows.at.tolist(), rows.restricted) == (names, 10, list(range(1, 11)), False)
    assert rows.holes == "1 of 11 rows with scores, which lack one of a compared model"


def test_a_model_that_few_rows_score_is_left_out_and_named() -> None:
    three = Catalogue((CHEAP, DEAR, Model("rare", 1.0, 2.0, 8_000)))
    rare = [Reference("r", "r", scores={"cheap": 1, "dear": 0, "rare": 1})]
    often = [Reference(f"o{i}", f"o {i}", scores={"cheap": 1, "dear": 0}) for i in range(10)]
    (rows,) = as_rows([*rare, *often], three, 300)
    assert (rows.models, len(rows), rows.restricted) == (("cheap", "dear"), 11, True)
    assert rows.holes == "rare, scored in too few of the rows"


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        as_rows([], CATALOGUE, 300)


def test_folds_are_put_together_in_the_order_of_the_rows() -> None:
    parts = []
    for at in ([2, 0], [1]):
        values = np.array(at, np.float64)[:, None]
        none = np.zeros(len(at), np.int64)
        parts.append(Answered(values, values, np.array(at), none.astype(np.bool_), (f"g{len(at)}",), none))
    whole = join(parts, [np.array([2, 0]), np.array([1])])
    assert whole.chosen.tolist() == [0, 1, 2]
    assert whole.fold.tolist() == [0, 1, 0]
    assert whole.generations == ("g2", "g1")


def test_rows_are_ranked_within_their_fold() -> None:
    # Both folds rank their rows right, the second on a scale of its own.
    one = trial(0, 2, rows=6)
    gain = floats(0.3, 0.2, 0.1, 0.9, 0.8, 0.7)
    quality = np.stack((np.zeros(6), floats(1, 0, 0, 1, 0, 0)), axis=1)
    rows = replace(one.rows, quality=quality)
    answered = replace(one.answered, quality=np.stack((1 - gain, gain), axis=1), fold=np.array([0, 0, 0, 1, 1, 1]))
    figures = measure([Trial(rows, answered, one.places)], 0, 0).policies
    assert figures["router"]["cpt80"] == pytest.approx(0.8 / 3)
    assert figures["router"]["apgr"] == pytest.approx(figures["oracle"]["apgr"])


# ---- the report ---------------------------------------------------------------------------------------------


def labels_part() -> Part:
    rows = as_rows(labelled(40), CATALOGUE, 300)[0]
    estimated = np.where(np.arange(len(rows))[:, None] % 4 == 0, (0.6, 0.4), (0.3, 0.7))
    prior = Prior(estimated, rows.cost, np.zeros(len(rows), np.int64), 2)
    chosen = estimated.argmax(axis=1)
    none = np.zeros(len(rows), np.int64)
    answered = Answered(estimated, rows.cost, chosen, none.astype(np.bool_), ("g",), none, prior)
    return measure([Trial(rows, answered, np.arange(len(rows)))], 0, 10)


def test_labels_have_accuracy_and_a_table_of_confusions() -> None:
    part = labels_part()
    # Of 44 rows: labels alternate; every fourth is asked of the cheap model, the others of the dear one.
    assert part.policies["router"]["quality"] == pytest.approx(
        (part.confusion["cheap"]["cheap"] + part.confusion["dear"]["dear"]) / 44
    )
    assert sum(sum(row.values()) for row in part.confusion.values()) == 44
    assert part.policies["router"]["top2"] == 1.0
    assert part.policies["oracle"]["quality"] == 1.0
    assert part.policies["router"]["cheaper_share"] == part.confusion["dear"]["cheap"] / 44
    assert part.policies["router"]["dearer_share"] == part.confusion["cheap"]["dear"] / 44


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Rows of two models with scores, alike within a topic, and a catalogue beside."""
    random = np.random.default_rng(0)
    topics = {"poem": "write a poem about the {} in spring", "sum": "integrate the function x^{} over the unit disc"}
    with (tmp_path / "rows.jsonl").open("w") as file:
        for i in range(60):
            topic = ("poem", "sum")[i % 2]
            scores = {"cheap": float(random.uniform() < (0.9 if topic == "poem" else 0.2)), "dear": 1.0}
            row = {"id": f"r{i}", "prompt": topics[topic].format(i), "scores": scores, "category": topic}
            file.write(json.dumps(row) + "\n")
    (tmp_path / "models.toml").write_text(
        "".join(
            f'[[models]]\nid = "{m.id}"\ninput_usd_per_mtok = {m.input_usd_per_mtok}\n'
            f"output_usd_per_mtok = {m.output_usd_per_mtok}\ncontext_window = 8000\n"
            for m in (CHEAP, DEAR)
        )
    )
    return tmp_path / "rows.jsonl"


def plan(rows_file: Path, **changed: Any) -> Evaluation:
    return replace(Evaluation([rows_file], models=rows_file.parent / "models.toml", folds=3, resamples=50), **changed)


def test_cross_validation_finds_what_there_is_to_learn(rows_file: Path) -> None:
    report = run(plan(rows_file, seeds=(0, 1)), load_settings())
    router = report.parts[0].policies["router"]
    assert router["apgr"] > 0.6
    assert router["aiq"] > report.parts[0].policies["random"]["aiq"] + 0.05
    assert len(report.generations) == 6
    text = to_text(report)
    for said in ("60 labelled prompts, 3 folds", "0, 1;", report.generations[0], "APGR", "category prior"):
        assert said in text


def test_the_same_seed_gives_the_same_report(rows_file: Path) -> None:
    one, again = (run(plan(rows_file, labels=40), load_settings()) for _ in range(2))
    assert one.to_dict() == again.to_dict()
    assert one.rows - one.parts[0].rows == 40


def test_report_and_plots_are_written(rows_file: Path, tmp_path: Path) -> None:
    report = run(plan(rows_file), load_settings())
    written = write(report, tmp_path / "report")
    assert [path.name for path in written] == [
        "report.json",
        "quality_cost.png",
        "share_quality.png",
        "reliability.png",
        "report.html",
    ]
    assert json.loads(written[0].read_text())["parts"][0]["policies"]["router"]["apgr"] > 0.5
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in written[1:-1])


def test_the_page_needs_nothing_else_and_shows_prompts_as_they_are(rows_file: Path, tmp_path: Path) -> None:
    report = run(plan(rows_file), load_settings())
    [part] = report.parts
    near = (Near(0.9, "large", "<i>"),)
    regret = Regret("<script>alert(1)</script>", "<b>", "small", 0.9, 0.0, "large", 1.0, near)
    part = replace(part, details=replace(part.details, regrets=[regret]))
    write(replace(report, parts=(part,)), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for section in ("From wanted quality to expected cost", "By category", "Worst regrets", "Share of calls"):
        assert section in page
    assert page.count("data:image/png;base64,") == 3


def test_what_a_quality_costs_rises_and_regrets_are_worst_first(rows_file: Path) -> None:
    [part] = run(plan(rows_file), load_settings()).parts
    targets = part.details.targets
    assert [t.wanted for t in targets] == sorted(t.wanted for t in targets)
    assert [t.cost_usd for t in targets] == sorted(t.cost_usd for t in targets)
    assert all(t.quality >= t.wanted - 1e-9 for t in targets)
    assert sum(part.details.shares.values()) == pytest.approx(1.0)
    assert sum(one.rows for one in part.details.categories) == part.rows
    assert all(one.oracle_quality >= one.quality for one in part.details.categories)
    lost = [one.better_actual - one.actual for one in part.details.regrets]
    assert lost == sorted(lost, reverse=True)
    assert all(len(one.neighbours) == 3 for one in part.details.regrets)
    assert "wanted" in to_text(run(plan(rows_file), load_settings()))


def test_the_plot_of_labels_is_drawn_too(rows_file: Path, tmp_path: Path) -> None:
    report = replace(run(plan(rows_file), load_settings()), parts=(labels_part(),))
    assert [path.name for path in write(report, tmp_path)] == [
        "report.json",
        "quality_cost.png",
        "reliability.png",
        "report.html",
    ]
    assert "Labelled (rows) and chosen (columns)" in to_text(report)


def test_without_matplotlib_the_extra_is_named(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(plan(rows_file), load_settings())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"waypost\[report\]"):
        write(report, tmp_path)


# ---- the command, and what goes wrong -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts beside the starter set, one with turns before it, and one that is in the index."""
    prompts = {
        "whats the capital of Latvia?": "small",
        "Prove that there are infinitely many primes congruent to 3 mod 4.": "large",
        "Write a polite mail that asks a supplier for a later delivery.": "medium",
        "hello there": "small",
        "Design a schema for a multi-tenant billing system with audits, and defend it.": "large",
        "capital of Mongolia?": "small",
    }
    rows = [{"id": f"h{i}", "prompt": p, "best_model": m} for i, (p, m) in enumerate(prompts.items())]
    turns = [("user", "Summarise this in a line: it rains."), ("assistant", "Rain."), ("user", "now in German")]
    rows.append(
        {"id": "talk", "messages": [{"role": r, "content": c} for r, c in turns], "best_model": "small"}  # type: ignore[dict-item]
    )
    path = tmp_path_factory.mktemp("held-out") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_service_and_index_agree(server: Server, starter_index: Path, held_out: Path) -> None:
    reports = []
    for more in ([], ["--address", server.socket], ["--address", server.address]):
        done = run_waypost("evaluate", "--references", held_out, "--index", starter_index, "--json", *more)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert reports[0]["known"] == 1
    assert reports[1]["asked"] == "service"
    for report in reports[1:]:
        assert report["generations"] == reports[0]["generations"]
        ours, theirs = reports[0]["parts"][0], report["parts"][0]
        assert theirs["confusion"] == ours["confusion"]
        for name, figures in ours["policies"].items():
            assert theirs["policies"][name] == pytest.approx(figures, abs=1e-6), name


def test_a_service_is_enough(server: Server, held_out: Path) -> None:
    done = run_waypost("evaluate", "--references", held_out, "--address", server.address)
    assert done.returncode == 0, done.stderr
    assert "7 labelled prompts, answered by the service at" in done.stdout
    assert "category prior" not in done.stdout  # what the references say is not known here


def test_prompts_that_are_references_are_warned_of(starter_index: Path, held_out: Path) -> None:
    settings_ = load_settings(None, {"index": {"path": starter_index}})
    assert "1 of these prompts are references" in to_text(
        run(Evaluation([held_out], index=True, resamples=5), settings_)
    )


def test_a_service_that_is_not_there_is_named(held_out: Path, tmp_path: Path) -> None:
    nowhere = f"unix:{tmp_path}/nowhere"
    with pytest.raises(CallError, match="is the service running there"):
        run(Evaluation([held_out], service=Service(nowhere)), Settings())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CallError, match="expected host:port"):
        Service("nowhere")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a", "prompt": "x", "best_model": "gpt-0"}, "the catalogue has no model 'gpt-0'"),
        (None, "no rows there"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    starter_index: Path, tmp_path: Path, row: dict[str, str] | None, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) if row else "")
    done = run_waypost("evaluate", "--references", tmp_path / "rows.jsonl", "--index", starter_index)
    assert done.returncode == 1
    assert said in done.stderr


def test_an_index_that_is_not_there_is_named(held_out: Path, tmp_path: Path) -> None:
    done = run_waypost("evaluate", "--references", held_out, "--index", tmp_path / "none")
    assert done.returncode == 1
    assert "no index is here" in done.stderr


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_measured(held_out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nothing_to_measure = ("--index", tmp_path / "none")
    done = run_waypost("evaluate", "--references", held_out, *nothing_to_measure, "--output", tmp_path / "file")
    assert done.returncode == 1
    assert f"{tmp_path / 'file'}: no folder for a report can be made there (File exists)" in done.stderr


def test_an_index_and_a_catalogue_are_one_too_many(rows_file: Path) -> None:
    with pytest.raises(InputError, match="give one of them"):
        run(plan(rows_file, index=True), Settings())


def test_the_choice_that_is_measured_is_the_policys(starter_index: Path, held_out: Path) -> None:
    rule = {"name": "hello", "when": 'prompt.startsWith("hello")', "pin": "large"}
    settings_ = load_settings(None, {"index": {"path": starter_index}, "policy": {"rules": [rule]}})
    without = load_settings(None, {"index": {"path": starter_index}})
    chosen = [
        run(Evaluation([held_out], index=True, resamples=0), one).parts[0].confusion for one in (without, settings_)
    ]
    moved = {label: {m: n - chosen[0][label].get(m, 0) for m, n in row.items()} for label, row in chosen[1].items()}
    large = next(m for m in chosen[1] if "sol" in m)
    assert [n for row in moved.values() for n in row.values() if n > 0] == [1.0]
    assert any(row.get(large) == 1.0 for row in moved.values())
