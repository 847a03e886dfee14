"""Generations of a running service: listed, swapped under load, and never a damaged one."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from waypost.v1 import admin_pb2

from index.build import build_index
from index.catalogue import load_catalogue
from index.encoder import HashEncoder
from index.records import Reference
from tests.conftest import ROOT, Server, run_waypost
from tests.e2e.kit import Client, refusal, serving


@dataclass
class Two:
    """A server over a folder with two sound generations; the first is in use at the start."""

    server: Server
    client: Client
    index: Path
    first: str
    second: str

    def activate(self, generation: str) -> admin_pb2.ActivateGenerationResponse:
        return self.client.admin.ActivateGeneration(admin_pb2.ActivateGenerationRequest(generation=generation))

    def listed(self) -> dict[str, admin_pb2.Generation]:
        response = self.client.admin.ListGenerations(admin_pb2.ListGenerationsRequest())
        return {generation.id: generation for generation in response.generations}

    def broken(self, name: str) -> Path:
        """Return a copy of the second generation to be damaged, in a folder of the same id."""
        target = self.index / name
        shutil.copytree(self.index / self.second, target)
        return target


def relabelled(folder: Path) -> Path:
    """Return the starter references with one label for all of customer support."""
    folder.mkdir()
    for path in sorted((ROOT / "reference_prompts" / "starter").glob("*.jsonl")):
        if path.stem != "small_talk":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for row in rows:
                if path.stem == "customer_support":
                    row["best_model"] = "large"
            (folder / path.name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(starter_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with the starter's generation in use, and one with other labels."""
    root = tmp_path_factory.mktemp("generations")
    shutil.copytree(starter_index, root / "index")
    first = (root / "index" / "CURRENT").read_text()
    done = run_waypost(
        "build-index",
        "--references",
        relabelled(root / "rows"),
        "--models",
        "reference_prompts/models.toml",
        "--output",
        root / "index",
    )
    assert done.returncode == 0, done.stderr
    assert " 0 embedded" in done.stdout
    (root / "index" / "CURRENT").write_text(first)
    return root / "index"


@pytest.fixture(scope="module")
def two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    first = (folder / "CURRENT").read_text().strip()
    (second,) = {path.name for path in folder.iterdir() if path.is_dir()} - {first}
    with serving(folder, tmp_path_factory.mktemp("data")) as server:
        client = Client(server.address)
        yield Two(server, client, folder, first, second)
        client.close()
        assert server.stop() == 0


def test_generations_are_listed_with_what_they_hold(two: Two) -> None:
    two.activate(two.first)
    found = two.listed()
    assert {name: found[name].active for name in (two.first, two.second)} == {two.first: True, two.second: False}
    assert found[two.first].references > found[two.second].references > 500
    assert found[two.first].encoder_digest == found[two.second].encoder_digest
    assert not found[two.first].problem
    info = two.client.admin.GetInfo(admin_pb2.GetInfoRequest())
    assert info.generation == two.first
    assert info.encoder.digest == found[two.first].encoder_digest
    newest = two.client.admin.ListGenerations(admin_pb2.ListGenerationsRequest()).generations[0]
    assert newest.id == two.second


def test_an_activated_generation_decides_from_then_on_and_after_a_restart(two: Two, tmp_path: Path) -> None:
    two.activate(two.first)
    prompt = "Sentiment of this message: third time the courier left my parcel in the rain"
    before = two.client.decide(prompt, explain=True)
    done = two.activate(two.second)
    assert (done.generation, done.previous) == (two.second, two.first)
    after = two.client.decide(prompt, explain=True)
    assert (before.generation, after.generation) == (two.first, two.second)
    assert before.explanation.neighbours != after.explanation.neighbours
    assert two.activate(two.second).previous == two.second
    with serving(two.index, tmp_path) as server:
        client = Client(server.address)
        assert client.decide("hello").generation == two.second
        client.close()
    two.activate(two.first)


def test_a_decision_made_before_the_swap_is_reported_after_it(two: Two, scope: str) -> None:
    two.activate(two.first)
    decision = two.client.decide("an unusual question", scope)
    two.activate(two.second)
    assert two.client.report(decision, "yes").stored
    assert two.client.decide("an unusual question", scope).answer.content == "yes"
    explained = two.client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert explained.generation == two.first


def test_swapping_back_and_forth_disturbs_no_decision(two: Two, scope: str) -> None:
    stop = threading.Event()
    seen: set[str] = set()

    def ask(caller: int) -> int:
        asked = 0
        while not stop.is_set():
            decision = two.client.decide(f"question {asked} of caller {caller}", scope, explain=True)
            assert decision.generation in {two.first, two.second}
            assert decision.plan.steps
            assert abs(sum(n.weight for n in decision.explanation.neighbours) - 1) < 1e-6
            seen.add(decision.generation)
            asked += 1
        return asked

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask, caller) for caller in range(16)]
        try:
            for _ in range(10):
                for generation in (two.second, two.first):
                    assert two.activate(generation).generation == generation
        finally:
            stop.set()
        assert min(work.result(60) for work in asking) > 0
    assert seen == {two.first, two.second}


def test_activations_at_once_leave_one_in_use_and_the_same_one_on_disk(two: Two) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(two.activate, [two.first, two.second] * 6))
    in_use = two.client.decide("hello").generation
    assert (two.index / "CURRENT").read_text().strip() == in_use
    assert [name for name, generation in two.listed().items() if generation.active] == [in_use]


DAMAGES = {
    "a flipped byte in the vectors": ("vectors.npy", "flip"),
    "a flipped byte in the references": ("references.jsonl", "flip"),
    "a flipped byte in the hashes": ("hashes.npy", "flip"),
    "a flipped byte in the catalogue": ("models.toml", "flip"),
    "cut vectors": ("vectors.npy", "cut"),
    "no references": ("references.jsonl", "delete"),
    "another format": ("manifest.json", '"format": 2', '"format": 7'),
    "another encoder": ("manifest.json", '"encoder_digest": "', '"encoder_digest": "f'),
    "a path that leads elsewhere": ("manifest.json", '"hashes.npy"', '"../hashes.npy"'),
    "a manifest that is none": ("manifest.json", "{", "["),
    "no manifest": ("manifest.json", "delete"),
}


def damage(folder: Path, name: str) -> None:
    file, *how = DAMAGES[name]
    path = folder / file
    content = bytearray(path.read_bytes())
    if how == ["flip"]:
        content[len(content) // 2] ^= 0x20
    elif how == ["cut"]:
        del content[-9:]
    elif how != ["delete"]:
        content = bytearray(content.replace(how[0].encode(), how[1].encode(), 1))
    path.unlink()
    if how != ["delete"]:
        path.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_generation_is_not_activated_and_the_old_one_goes_on(two: Two, name: str) -> None:
    two.activate(two.first)
    sound = two.index / two.second
    kept = two.index.parent / "kept"
    shutil.copytree(sound, kept)
    try:
        damage(sound, name)
        told = refusal(lambda: two.activate(two.second))
        assert (told.code, told.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, ("GENERATION_UNUSABLE",))
        assert "waypost build-index" in told.text
        decision = two.client.decide("hello")
        assert decision.generation == two.first
        assert decision.plan.steps
        assert (two.index / "CURRENT").read_text().strip() == two.first
        listed = two.listed()
        assert listed[two.first].active
        if DAMAGES[name][0] == "manifest.json":
            assert listed[two.second].problem
    finally:
        shutil.rmtree(sound)
        kept.rename(sound)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_generation_is_refused_at_the_start_and_by_check(folder: Path, tmp_path: Path, name: str) -> None:
    generation = (folder / "CURRENT").read_text().strip()
    shutil.copytree(folder / generation, tmp_path / "index" / generation)
    (tmp_path / "index" / "CURRENT").write_text(generation)
    damage(tmp_path / "index" / generation, name)
    where = ("--index", tmp_path / "index", "--data-dir", tmp_path / "data")
    checked = run_waypost("check", *where)
    assert checked.returncode == 1
    assert "waypost build-index" in checked.stdout
    assert str(tmp_path / "index" / generation) in checked.stdout
    if name in {"a flipped byte in the vectors", "another format", "a path that leads elsewhere"}:
        started = run_waypost("serve", *where, "--listen", "127.0.0.1:0", env={"WAYPOST_SERVER__METRICS_LISTEN": ""})
        assert started.returncode == 1
        assert "waypost build-index" in started.stderr
        assert "Traceback" not in started.stderr


def test_a_copy_under_another_name_is_listed_with_its_problem_and_not_activated(two: Two) -> None:
    copy = two.broken("copy")
    try:
        assert "name the folder" in two.listed()["copy"].problem
        assert refusal(lambda: two.activate("copy")).code is grpc.StatusCode.FAILED_PRECONDITION
    finally:
        shutil.rmtree(copy)


def test_a_generation_of_another_encoder_is_listed_with_its_problem_and_not_activated(two: Two, tmp_path: Path) -> None:
    catalogue = load_catalogue(ROOT / "reference_prompts" / "models.toml")
    foreign = build_index([Reference("r", "a prompt", "gpt-6-luna")], catalogue, HashEncoder(), tmp_path).generation
    shutil.copytree(tmp_path / foreign, two.index / foreign)
    try:
        assert "another encoder" in two.listed()[foreign].problem
        told = refusal(lambda: two.activate(foreign))
        assert (told.code, told.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, ("GENERATION_UNUSABLE",))
        assert "encoder.path" in told.text
    finally:
        shutil.rmtree(two.index / foreign)


def test_a_generation_that_does_not_fit_the_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    environment = {"WAYPOST_ROUTING__FALLBACK": "nobody", "WAYPOST_SERVER__METRICS_LISTEN": ""}
    where = ("--index", folder, "--data-dir", tmp_path)
    started = run_waypost("serve", *where, "--listen", "127.0.0.1:0", env=environment)
    assert started.returncode == 1
    assert "nobody" in started.stderr
    checked = run_waypost("check", *where, env=environment)
    assert checked.returncode == 1
    assert "nobody" in checked.stdout
