"""Building: what changed is embedded, what is known is kept, and half a build is no build."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.build import BuildReport, build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import HashEncoder, Tokens
from index.errors import GenerationError, ReferenceError_
from index.estimator import NEIGHBOURS, Neighbours
from index.generation import Generation, current_generation, list_generations, load_generation, verify_generation
from index.records import Reference
from index.vectors import Vectors

MODELS = """
[[models]]
id = "little"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.5
context_window = 8000
[[models]]
id = "big"
input_usd_per_mtok = 2
output_usd_per_mtok = 10
context_window = 100000
"""
MANY = 4_500
ENCODER = HashEncoder()


class CountingEncoder(HashEncoder):
    """Counts the texts it embeds."""

    embedded = 0

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.embedded += len(batch)
        return super().encode(batch)


def catalogue() -> Catalogue:
    return parse_catalogue(MODELS, "models.toml")


def references(rows: Sequence[int], word: str = "topic") -> list[Reference]:
    chance = random.Random(0)
    words = [f"w{chance.randrange(10**9)}" for _ in range(400)]
    return [
        Reference(f"{word}-{i}", f"{word} {words[i % 400]} {words[i * 7 % 400]} {words[i // 12]} {i}", "little")
        for i in rows
    ]


def build(rows: Sequence[Reference], root: Path) -> tuple[BuildReport, int]:
    encoder = CountingEncoder()
    report = build_index(rows, catalogue(), encoder, root)
    return report, encoder.embedded


def loaded(root: Path) -> Generation:
    return load_generation(current_generation(root), HashEncoder().digest)


def nearest(generation: Generation, rows: Sequence[Reference]) -> float:
    """Return the share of prompts whose own reference is found nearest."""
    encoder = HashEncoder()
    _, found = generation.partition.search(encoder.encode(encoder.tokenise([r.prompt for r in rows])), 1)
    hits = [generation.references[i].prompt == r.prompt for i, r in zip(found[:, 0].tolist(), rows, strict=True)]
    return float(np.mean(hits))


def test_a_rebuild_embeds_only_what_changed(tmp_path: Path) -> None:
    report, embedded = build(references(range(30)), tmp_path)
    assert (report.references, report.embedded, report.reused, embedded) == (30, 30, 0, 30)
    changed = [*references(range(5, 30)), *references(range(10), "another")]
    changed = [Reference(f"n{i}", r.prompt, "big") for i, r in enumerate(changed)]  # labels and ids may change freely
    report, embedded = build(changed, tmp_path)
    assert (report.references, report.embedded, report.reused, embedded) == (35, 10, 25, 10)
    assert nearest(loaded(tmp_path), changed) == 1.0


def test_reused_vectors_are_those_a_fresh_build_would_make(tmp_path: Path) -> None:
    build(references(range(30)), tmp_path / "a")
    one, _ = build(references(range(10, 50)), tmp_path / "a")
    other, _ = build(references(range(10, 50)), tmp_path / "b")
    assert one.generation == other.generation
    assert (one.embedded, other.embedded) == (20, 40)


def test_the_same_input_gives_the_same_generation(tmp_path: Path) -> None:
    first, _ = build(references(range(20)), tmp_path)
    again, embedded = build(references(range(20)), tmp_path)
    assert (again.generation, embedded) == (first.generation, 0)
    assert len(list_generations(tmp_path)) == 1


def test_any_change_gives_another_generation(tmp_path: Path) -> None:
    rows = references(range(5))
    ids = {build(rows, tmp_path)[0].generation}
    ids.add(build(rows[::-1], tmp_path)[0].generation)
    ids.add(build(rows[:-1], tmp_path)[0].generation)
    ids.add(build([Reference(rows[0].id, rows[0].prompt, "big"), *rows[1:]], tmp_path)[0].generation)
    cheaper = parse_catalogue(MODELS.replace("0.1", "0.05"), "models.toml")
    ids.add(build_index(rows, cheaper, HashEncoder(), tmp_path).generation)
    ids.add(build_index(rows, catalogue(), HashEncoder(32), tmp_path).generation)
    assert len(ids) == 6


def test_repeated_prompts_are_embedded_once_and_all_kept(tmp_path: Path) -> None:
    rows = [Reference(f"r{i}", ("same text", "same text \n", "other")[i % 3], "big") for i in range(9)]
    report, embedded = build(rows, tmp_path)
    assert (report.references, report.embedded, embedded) == (9, 2, 2)
    assert len(loaded(tmp_path).partition) == 9


def test_another_encoder_embeds_everything_anew(tmp_path: Path) -> None:
    build(references(range(20)), tmp_path)
    report = build_index(references(range(20)), catalogue(), HashEncoder(32), tmp_path)
    assert report.embedded == 20
    assert load_generation(current_generation(tmp_path), HashEncoder(32).digest).manifest.dimensions == 32


def test_prompts_beyond_the_window_are_counted(tmp_path: Path) -> None:
    rows = [Reference("short", "a b", "big"), Reference("long", "word " * 300, "big")]
    assert build(rows, tmp_path)[0].truncated == 1


def test_nothing_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(ReferenceError_, match="at least one labelled prompt"):
        build([], tmp_path)


def test_progress_counts_up_to_what_is_embedded(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    build_index(references(range(50)), catalogue(), HashEncoder(), tmp_path, lambda *done: said.append(done))
    assert said[-1] == (50, 50)
    assert [done for done, _ in said] == sorted(done for done, _ in said)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    build(references(range(MANY)), root)
    return root


def test_many_references_are_found(large: Path) -> None:
    generation = loaded(large)
    assert len(generation.partition) == MANY
    assert nearest(generation, references(range(0, MANY, 10))) > 0.98


def test_many_references_give_the_same_generation_again_and_elsewhere(large: Path, tmp_path: Path) -> None:
    again, embedded = build(references(range(MANY)), large)
    assert embedded == 0
    elsewhere, _ = build(references(range(MANY)), tmp_path)
    assert current_generation(large).name == again.generation == elsewhere.generation


@pytest.mark.parametrize(("kept", "added"), [(4_400, 0), (4_200, 100), (1_000, 4_000)])
def test_a_build_from_the_last_one_holds_every_reference(tmp_path: Path, kept: int, added: int) -> None:
    build(references(range(MANY)), tmp_path)
    rows = [*references(range(MANY - kept, MANY)), *references(range(added), "new")]
    random.Random(1).shuffle(rows)
    report, embedded = build(rows, tmp_path)
    assert (report.embedded, embedded) == (added, added)
    generation = loaded(tmp_path)
    assert len(generation.partition) == kept + added
    assert nearest(generation, rows) > 0.98


def test_a_build_that_is_killed_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    chance = random.Random(3)
    expected = {build(references(range(i, i + 40)), tmp_path / "known")[0].generation: i for i in range(100)}
    old, _ = build(references(range(40)), tmp_path / "index")
    seen = {old.generation}
    for _ in range(6):
        command = [sys.executable, __file__, str(tmp_path / "index")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as victim:
            assert victim.stdout
            for _ in range(chance.randrange(1, 4)):
                victim.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            victim.send_signal(signal.SIGKILL)
        folder = current_generation(tmp_path / "index")
        verify_generation(folder)
        first = expected[folder.name]
        seen.add(folder.name)
        assert [r.id for r in loaded(tmp_path / "index").references] == [f"topic-{i}" for i in range(first, first + 40)]
        readable = [m for _, m in list_generations(tmp_path / "index") if not isinstance(m, Exception)]
        assert len(readable) == len(list_generations(tmp_path / "index")), "a half-written generation is listed"
    assert len(seen) > 1, "no build was ever finished"


def be_the_victim(root: Path) -> None:
    for i in range(100):
        build_index(references(range(i, i + 40)), catalogue(), HashEncoder(), root)
        os.write(1, b"built\n")


if __name__ == "__main__":
    be_the_victim(Path(sys.argv[1]))


def relabelled(rows: list[Reference], count: int) -> list[Reference]:
    other = {"little": "big", "big": "little"}
    return [replace(row, best_model=other[row.best_model]) if i < count else row for i, row in enumerate(rows)]


@pytest.mark.parametrize(("changed", "kept"), [(0, True), (20, True), (200, False)])
def test_an_estimator_is_fitted_anew_when_enough_has_changed(tmp_path: Path, changed: int, kept: bool) -> None:  # noqa: FBT001
    rows = [Reference(f"r{i}", f"number {i} of {i % 7}", ("little", "big")[i % 2]) for i in range(2_000)]
    build_index(rows, catalogue(), ENCODER, tmp_path)
    before = (current_generation(tmp_path) / "estimator.npz").read_bytes()
    calls: list[tuple[int, int]] = []
    build_index(relabelled(rows, changed), catalogue(), ENCODER, tmp_path, fitting=lambda *done: calls.append(done))
    assert ((current_generation(tmp_path) / "estimator.npz").read_bytes() == before) == kept
    assert (calls == []) == kept
    if not kept:
        assert calls[-1] == (2_000, 2_000)


def test_an_estimator_that_another_version_stored_is_fitted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Reference(f"r{i}", f"number {i} of {i % 7}", ("little", "big")[i % 2]) for i in range(2_000)]
    with monkeypatch.context() as older:
        older.setattr("index.estimator.FORMAT", 1)
        build_index(rows, catalogue(), ENCODER, tmp_path)
    report = build_index(rows, catalogue(), ENCODER, tmp_path)
    assert report.embedded == 0
    assert load_generation(current_generation(tmp_path)).estimator.fits(ENCODER.dimensions, 2)


def test_other_models_are_fitted_anew(tmp_path: Path) -> None:
    rows = [Reference(f"r{i}", f"number {i} of {i % 7}", ("little", "big")[i % 2]) for i in range(2_000)]
    build_index(rows, catalogue(), ENCODER, tmp_path)
    swapped = parse_catalogue("[[models]]".join(["", *reversed(MODELS.split("[[models]]")[1:])]), "models.toml")
    build_index(rows, swapped, ENCODER, tmp_path)
    generation = load_generation(current_generation(tmp_path))
    np.testing.assert_allclose(generation.estimator.mean, generation.mean_scores, atol=1e-6)


ODD: dict[str, list[Reference]] = {
    "one reference": [Reference("r", "one", "little")],
    "one model": [Reference(f"r{i}", f"prompt {i}", "little") for i in range(60)],
    "scores of one model": [Reference(f"r{i}", f"prompt {i}", scores={"big": i % 2}) for i in range(60)],
    "constant scores": [Reference(f"r{i}", f"prompt {i}", scores={"little": 0.5, "big": 0.5}) for i in range(60)],
    "contradictions": [Reference(f"r{i}", f"prompt {i // 2}", ("little", "big")[i % 2]) for i in range(60)],
    "one prompt": [Reference(f"r{i}", "the same", ("little", "big")[i % 2]) for i in range(60)],
    "a score or none": [
        Reference(f"r{i}", f"prompt {i}", scores={("little", "big")[i % 2]: 1.0}, costs={"big": 0.0}) for i in range(60)
    ],
    "costs as far apart as can be": [
        Reference(f"r{i}", f"prompt {i}", "big", costs={"little": 1e-12, "big": 1e6 * (i % 2)}) for i in range(60)
    ],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_labels_are_built_and_estimated_from(tmp_path: Path, name: str) -> None:
    build_index(ODD[name], catalogue(), ENCODER, tmp_path)
    generation = load_generation(current_generation(tmp_path))
    vectors = ENCODER.encode(ENCODER.tokenise(["prompt 7", "else"]))
    similarities, rows = generation.partition.search(vectors, min(NEIGHBOURS, len(generation.references)))
    near = Neighbours.gather(rows, similarities, generation.experience)
    found = generation.estimator.predict(vectors, ["prompt 7", "else"], near)
    for values in (found.quality, found.error, found.gain_error):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert (found.quality <= 1).all()
    assert not (found.cost < 0).any()
    assert not np.isinf(found.cost).any()
    if name in {"constant scores", "contradictions", "one prompt"}:
        np.testing.assert_allclose(found.quality, 0.5, atol=0.02)


def test_a_disk_that_is_full_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("264960 requested and 155616 written")

    monkeypatch.setattr("index.build.np.save", full)
    with pytest.raises(GenerationError, match=r"index: the generation cannot be written .* make room on the disk"):
        build_index(references(range(3)), catalogue(), ENCODER, tmp_path / "index")
    assert not [*(tmp_path / "index").iterdir()]
