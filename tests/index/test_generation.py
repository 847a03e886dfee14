"""Generations: there whole or not at all, and nothing that was changed since is ever loaded."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import generation
from index.build import build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import HashEncoder
from index.errors import GenerationError
from index.generation import (
    Manifest,
    current_generation,
    list_generations,
    load_generation,
    make_folder,
    read_manifest,
    set_current,
    verify_generation,
)
from index.records import Reference

ENCODER = HashEncoder()
MODELS = """
fallback = "big"
[[models]]
id = "little"
aliases = ["small"]
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.5
context_window = 8000
[[models]]
id = "big"
input_usd_per_mtok = 2
output_usd_per_mtok = 10
context_window = 100000
"""
FILES = ["manifest.json", "models.toml", "estimator.npz", "fitted.npy", "references.jsonl", "hashes.npy", "vectors.npy"]


def catalogue() -> Catalogue:
    return parse_catalogue(MODELS, "models.toml")


def references(n: int, word: str = "prompt") -> list[Reference]:
    return [Reference(f"r{i}", f"{word} number {i} of {i % 7}", ("little", "big")[i % 2]) for i in range(n)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_index(references(20), catalogue(), ENCODER, tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_was_built_is_what_is_loaded(root: Path) -> None:
    generation = load_generation(current_generation(root), ENCODER.digest)
    assert list(generation.references) == references(20)
    assert generation.catalogue.ids == ("little", "big")
    assert generation.catalogue.fallback == "big"
    assert generation.id == current_generation(root).name
    vectors = ENCODER.encode(ENCODER.tokenise([r.prompt for r in references(20)]))
    scores, rows = generation.partition.search(vectors, 1)
    assert rows[:, 0].tolist() == list(range(20))
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)


def test_scores_and_costs_are_matrices_with_holes(tmp_path: Path) -> None:
    rows = [
        Reference("a", "one", best_model="big"),
        Reference("b", "two", scores={"little": 0.25}, costs={"little": 0.5}),
        Reference("c", "three", scores={"little": 0.75, "big": 1.0}, costs={"big": 2.0}),
    ]
    build_index(rows, catalogue(), ENCODER, tmp_path)
    generation = load_generation(current_generation(tmp_path))
    nan = np.nan
    np.testing.assert_array_equal(generation.scores, np.array([[0, 1], [0.25, nan], [0.75, 1]], np.float32))
    np.testing.assert_array_equal(generation.costs, np.array([[nan, nan], [0.5, nan], [nan, 2]], np.float32))
    np.testing.assert_allclose(generation.mean_scores, [1 / 3, 1])
    np.testing.assert_allclose(generation.mean_costs, [0.5, 2])


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "a bit flipped":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        del content[-5:]
    elif how == "longer":
        content += b"x"
    elif how == "emptied":
        content.clear()
    path.write_bytes(bytes(content))
    if how == "deleted":
        path.unlink()


DAMAGES = ["a bit flipped", "cut", "longer", "emptied", "deleted"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_and_named_with_the_remedy(root: Path, name: str, how: str) -> None:
    folder = current_generation(root)
    damage(folder / name, how)
    with pytest.raises(GenerationError, match="waypost build-index") as error:
        load_generation(folder)
    assert name in str(error.value)


def test_what_may_not_be_read_or_written_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # root may read and write everything
        patch.setattr(generation, "_sha256", forbidden)
        with pytest.raises(GenerationError, match=r"cannot be read \(Permission denied\); make it readable, or"):
            load_generation(current_generation(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda _path, _mode: False)
        with pytest.raises(GenerationError, match="this folder cannot be written; make it writable"):
            make_folder(root)


def test_every_bit_of_the_manifest_that_means_something_is_guarded(root: Path) -> None:
    path = current_generation(root) / "manifest.json"
    sound, manifest = path.read_bytes(), read_manifest(path.parent)
    for place in range(len(sound)):
        changed = bytearray(sound)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            read = read_manifest(path.parent)
        except GenerationError:
            continue
        # The time it was built is no part of what it is, nor is white space.
        assert (read.id, read.files, read.references) == (manifest.id, manifest.files, manifest.references)


@pytest.mark.parametrize("name", ["../models.toml", "/etc/hostname", "..", "", "a/../models.toml", "./models.toml"])
def test_a_file_name_that_leads_elsewhere_is_refused(root: Path, name: str) -> None:
    folder = current_generation(root)
    (root / "models.toml").write_text(MODELS)
    edit(folder, lambda m: m["files"].update({name: m["files"]["models.toml"]}))
    with pytest.raises(GenerationError, match="waypost build-index"):
        load_generation(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].clear(),
        lambda m: m["files"].pop("references.jsonl"),
        lambda m: m.update(id="0" * 16),
        lambda m: m.update(id="../elsewhere"),
        lambda m: m.update(references=21),
        lambda m: m.update(dimensions=32),
        lambda m: m.update(encoder_digest="f" * 64),
        lambda m: m.update(created_at=float("nan")),
        lambda m: m.update(created_at=1e300),
        lambda m: m.update(created_at="yesterday"),
        lambda m: m.pop("encoder_digest"),
        lambda m: m.update(files=[]),
        lambda m: m.update(files={"models.toml": 5}),
    ],
)
def test_a_manifest_that_was_edited_is_refused(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    folder = current_generation(root)
    edit(folder, change)
    with pytest.raises(GenerationError, match="waypost build-index"):
        load_generation(folder)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", "\xff", '{"format": 1}', "[" * 99_999])
def test_a_manifest_that_is_none_is_refused(root: Path, text: str) -> None:
    folder = current_generation(root)
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(GenerationError, match="waypost build-index"):
        load_generation(folder)


@pytest.mark.parametrize("number", [1, 0, "2", None])
def test_a_manifest_of_another_format_is_refused(root: Path, number: object) -> None:
    folder = current_generation(root)
    edit(folder, lambda m: m.update(format=number))
    with pytest.raises(GenerationError, match=r"format .* is not the one this version reads \(2\)"):
        load_generation(folder)


def test_a_generation_of_another_encoder_is_refused(root: Path) -> None:
    with pytest.raises(GenerationError, match="vectors of different encoders cannot be compared"):
        load_generation(current_generation(root), HashEncoder(32).digest)


def test_a_folder_without_an_index_says_how_to_build_one(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(GenerationError, match="waypost build-index --references PATH --models"):
            current_generation(root)


def test_a_generation_may_be_named_itself(root: Path) -> None:
    folder = current_generation(root)
    assert current_generation(folder) == folder


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc", ".hidden", "\n", "a/b"])
def test_a_current_that_leads_elsewhere_is_refused(root: Path, name: str) -> None:
    (root / "CURRENT").write_text(name)
    with pytest.raises(GenerationError, match="does not name a generation"):
        current_generation(root)


def test_a_current_that_cannot_be_read_is_no_index_that_is_not_there(root: Path) -> None:
    (root / "CURRENT").unlink()
    (root / "CURRENT").mkdir()
    with pytest.raises(GenerationError, match="CURRENT: cannot be read"):
        current_generation(root)


def test_a_folder_that_cannot_be_listed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(GenerationError, match=r"cannot be read \(Too many open files\)"):
        list_generations(root)


def test_a_current_that_cannot_be_written_leaves_the_old_one_and_nothing_beside(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.is_file() and path.read_bytes() for path in root.iterdir()}

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(generation, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        set_current(root, "another")
    assert {path.name: path.is_file() and path.read_bytes() for path in root.iterdir()} == before


def test_a_current_that_names_nothing_is_refused_when_it_is_loaded(root: Path) -> None:
    set_current(root, "0" * 16)
    with pytest.raises(GenerationError, match="no generation is here"):
        load_generation(current_generation(root))


def test_generations_are_listed_newest_first_and_the_unreadable_last(root: Path) -> None:
    first = current_generation(root)
    build_index(references(3), catalogue(), ENCODER, root)
    second = current_generation(root)
    build_index(references(4), catalogue(), ENCODER, root)
    third = current_generation(root)
    edit(first, lambda m: m.update(created_at=1000.0))
    edit(second, lambda m: m.update(created_at=2000.0))
    (root / "stray").mkdir()
    (root / ".building-x").mkdir()
    shutil.copytree(first, root / "copy")
    found = list_generations(root)
    assert [folder for folder, _ in found[:3]] == [third, second, first]
    assert all(isinstance(manifest, Manifest) for _, manifest in found[:3])
    assert {folder.name: type(problem) for folder, problem in found[3:]} == {
        "stray": GenerationError,
        "copy": GenerationError,
    }
    assert list_generations(root / "nowhere") == []


def test_a_damaged_generation_is_written_anew(root: Path) -> None:
    folder = current_generation(root)
    (folder / "vectors.npy").unlink()
    report = build_index(references(20), catalogue(), ENCODER, root)
    assert report.generation == folder.name
    assert report.embedded == 20
    assert verify_generation(folder).id == folder.name


def test_builds_at_the_same_time_do_not_trip_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / ".building-gone").symlink_to(tmp_path / "nowhere")  # as one that is renamed meanwhile
    catalogue = parse_catalogue(MODELS, "models.toml")
    for round_ in range(10):
        references = [Reference(str(i), f"prompt {i} of {round_}", "little") for i in range(3)]
        with ThreadPoolExecutor(8) as pool:
            builds = [pool.submit(build_index, references, catalogue, ENCODER, tmp_path / "many") for _ in range(8)]
            (built,) = {build.result().generation for build in builds}
        assert load_generation(current_generation(tmp_path / "many")).id == built


def test_no_half_written_folder_is_left(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == sorted(["CURRENT", current_generation(root).name])
    assert sorted(path.name for path in current_generation(root).iterdir()) == sorted(FILES)


def test_the_manifest_says_how_right_the_estimates_are(root: Path) -> None:
    calibration = read_manifest(current_generation(root)).calibration
    assert 0 <= calibration["error"] <= 1
    assert sum(one["rows"] for one in calibration["bins"]) == 20


def test_the_same_references_give_the_same_generation(root: Path, tmp_path: Path) -> None:
    again = build_index(references(20), catalogue(), ENCODER, tmp_path / "again").generation
    assert again == current_generation(root).name
