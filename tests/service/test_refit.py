"""Reports folded into a new generation: promoted where they help, refused where they harm."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from index.build import build_index
from index.catalogue import parse_catalogue
from index.encoder import OnnxEncoder, encode_texts
from index.errors import InputError, StoreError
from index.generation import current_generation, load_generation
from index.records import Reference
from index.sqlite_journal import DecisionRow, ReportRow, SqliteJournal
from index.text import EMPTY_CONTEXT, answer_key
from service.refit import refit, to_text
from service.settings import Settings, load_settings
from tests.conftest import run_waypost
from tests.service.kit import MODELS

PLACES = ["Lima", "Oslo", "Rome", "Cairo", "Kyiv", "Quito", "Seoul", "Accra", "Delhi", "Paris"]
EASY = [f"What is the capital near {place} called, number {i}?" for place in PLACES for i in range(10)]
HARD = [f"Prove theorem {i} of functional analysis in the style of {place}" for place in PLACES for i in range(10)]


class Given:
    """An index of some labels, and a journal of reports."""

    def __init__(self, root: Path, labelled: int) -> None:
        self.settings: Settings = load_settings(None, {"index": {"path": root / "i"}, "store": {"data_dir": root}})
        self.encoder = OnnxEncoder.load(self.settings.encoder.path)
        self.file = root / "journal.sqlite3"
        labels = [
            Reference(f"{kind}{i}", texts[i], scores={"small-1": float(kind == "e"), "large-1": 1.0, "medium-1": 0.5})
            for kind, texts in (("e", EASY), ("h", HARD))
            for i in range(labelled)
        ]
        self.first = build_index(labels, parse_catalogue(MODELS, "m"), self.encoder, root / "i").generation

    def reported(self, prompts: list[str], model: str, quality: float, *, scope: str = "a", text: bool = True) -> None:
        vectors = encode_texts(self.encoder, prompts)
        journal = SqliteJournal(self.file)
        for i, (prompt, vector) in enumerate(zip(prompts, vectors, strict=True)):
            key = answer_key(scope, EMPTY_CONTEXT, prompt)
            name, raw = f"{scope}{model}{i}{quality}{prompt}", np.asarray(vector, "<f4").tobytes()
            asked = '{"route":{},"cache":{},"attributes":{},"conversation_id":"","request_id":"","role":"user",'
            row = DecisionRow(
                name, time.time(), scope, self.first, self.encoder.digest, model, 0, key, prompt if text else None,
                10, 1, raw, asked + '"history":[]}', "null", "[]",
                '{"neighbours":[],"notes":[],"degraded":false,"truncated":false,"total_s":0,"expected":null}',
            )  # fmt: skip
            report = ReportRow(name, time.time(), model, "ok", quality, f"s{i % 3}", 0.0002, None, None, None, 0, 0.5)
            journal.append([row], [report])
        journal.close()

    @property
    def current(self) -> str:
        return current_generation(self.settings.index.path).name


def test_reports_that_help_are_promoted_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    given = Given(tmp_path, 30)
    given.reported(EASY[30:], "small-1", 1.0)
    given.reported(HARD[30:], "small-1", 0.0)
    given.reported(HARD[:10], "large", 1.0)
    before = sorted(path.name for path in given.settings.index.path.iterdir())
    tried = refit(given.settings, 0.0, dry_run=True)
    assert (tried.promoted, tried.why, tried.acceptable) == ("", "dry run", True)
    assert sorted(path.name for path in given.settings.index.path.iterdir()) == before
    done = refit(given.settings, 0.0)
    assert done.promoted == given.current != given.first
    assert done.by_model == {"small-1": 140, "large-1": 10}
    assert (done.prompts, done.merged) == (140, 0)
    assert {panel.name for panel in done.panels} == {"labels (scores)", "reports"}
    built = load_generation(current_generation(given.settings.index.path))
    told = {r.prompt: r for r in built.references}
    assert told[EASY[0]].scores["small-1"] == 1.0
    assert (told[HARD[50]].scores, told[HARD[50]].source) == ({"small-1": 0.0}, "report")
    assert told[HARD[50]].costs == {"small-1": 0.0002}
    assert f"promoted    {given.current}" in to_text(done)


def test_reports_that_contradict_the_labels_are_not_promoted(tmp_path: Path) -> None:
    given = Given(tmp_path, 90)
    given.reported([f"{prompt} Really?" for prompt in EASY], "small-1", 0.0)
    given.reported([f"{prompt} Really?" for prompt in HARD], "small-1", 1.0)
    given.reported([f"{prompt} Really?" for prompt in EASY], "large-1", 0.0)
    given.reported([f"{prompt} Really?" for prompt in HARD], "large-1", 0.0)
    found = refit(given.settings, 0.0)
    assert not found.acceptable
    assert found.why == "it is worse on rows kept out"
    assert given.current == given.first
    done = run_waypost(
        "refit", "--index", given.settings.index.path, "--data-dir", tmp_path, "--json", "--scope", "a", "--dry-run"
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["promoted"] == ""


def test_prompts_of_one_scope_are_not_shown_to_others_unasked(tmp_path: Path) -> None:
    given = Given(tmp_path, 20)
    given.reported(EASY[30:50], "small-1", 1.0, scope="a")
    given.reported(EASY[50:60], "small-1", 1.0, scope="b")
    with pytest.raises(InputError, match="--every-scope"):
        refit(given.settings, 0.0)
    assert refit(given.settings, 0.0, scope="b", dry_run=True).prompts == 10
    assert refit(given.settings, 0.0, scope="", dry_run=True).prompts == 30


def test_without_anything_to_fold_in_it_says_what_is_missing(tmp_path: Path) -> None:
    given = Given(tmp_path, 5)
    with pytest.raises(StoreError, match="no journal is here"):
        refit(given.settings, 0.0)
    given.reported(EASY[30:40], "small-1", 1.0, text=False)
    given.reported(EASY[30:40], "gone", 1.0)
    with pytest.raises(InputError, match="10 were recorded without their prompt and 10 are on models"):
        refit(given.settings, 0.0)
    with pytest.raises(InputError, match="of 0 reports"):
        refit(given.settings, time.time() + 60)


def test_too_little_to_judge_by_is_not_promoted(tmp_path: Path) -> None:
    given = Given(tmp_path, 5)
    given.reported(EASY[30:40], "small-1", 1.0)
    found = refit(given.settings, 0.0)
    assert found.promoted == ""
    assert "fewer than 20 rows" in found.why
