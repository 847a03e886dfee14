"""Real data, end to end: imported, built on one part, served, and the other part answered over gRPC.

The data is not part of the repository; where it is absent these tests are skipped.
"""

import gzip
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from index.text import canonical
from tests.conftest import SHARED_DATA, run_waypost, start_server

ROUTING = SHARED_DATA / "routing"
PRICES = {  # USD per million tokens in and out, as they were when the answers were made
    "gpt-4-1106-preview": (10.0, 30.0),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6),
}
# Over 20 random halves of GSM8K: APGR .558 on average, standard deviation .03, at the least .516 (of random: .5).
APGR_MARGIN = 0.01
# Over 5 random subsets of 1,000 rows, halved: AIQ .072 to .098 above random mixing.
AIQ_MARGIN = 0.05

pytestmark = pytest.mark.skipif(not ROUTING.is_dir(), reason="the routing data is not here")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation's report, as the command printed it, and the folder it wrote."""

    report: dict[str, Any]
    output: Path

    @property
    def policies(self) -> dict[str, dict[str, float]]:
        policies: dict[str, dict[str, float]] = self.report["parts"][0]["policies"]
        return policies


def waypost(*arguments: str | Path) -> str:
    done = run_waypost(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluated(folder: Path, sources: list[Path], models: list[str], keep: int) -> Evaluated:
    """Import, build on half of the distinct prompts, serve, and ask the other half."""
    catalogue, imported = folder / "models.toml", folder / "all.jsonl"
    catalogue.write_text("".join(map(table, models)))
    waypost("import", *sources, "--models", catalogue, "--output", imported)
    groups = defaultdict(list)
    for line in imported.read_text().splitlines():
        groups[canonical(json.loads(line)["prompt"])].append(line + "\n")
    texts = sorted(groups)
    random.Random(7).shuffle(texts)
    texts = texts[:keep]
    for name, part in (("known", texts[::2]), ("asked", texts[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(line for text in part for line in groups[text]))
    index, output = folder / "index", folder / "report"
    waypost("build-index", "--references", folder / "known.jsonl", "--models", catalogue, "--output", index)
    server = start_server(index, folder / "data")
    try:
        asked = ("evaluate", "--references", folder / "asked.jsonl", "--address", server.socket)
        printed = waypost(*asked, "--index", index, "--output", output, "--json")
    finally:
        code = server.stop()
    assert code == 0
    return Evaluated(json.loads(printed), output)


def table(model: str) -> str:
    into, out = PRICES.get(model, (1.0, 2.0))
    return (
        f'[[models]]\nid = "{model}"\ninput_usd_per_mtok = {into}\noutput_usd_per_mtok = {out}\n'
        "context_window = 128000\n"
    )


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """GSM8K: 701 rows, two models, prices from the catalogue."""
    folder = tmp_path_factory.mktemp("gsm8k")
    return evaluated(folder, [ROUTING / "routellm_gsm8k.jsonl.gz"], list(PRICES), keep=701)


@pytest.fixture(scope="module")
def eleven_models(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """ARC and Winogrande: 800 of the rows, eleven models, real costs."""
    sources = [ROUTING / f"routerbench_{name}.jsonl.gz" for name in ("arc_challenge", "winogrande")]
    with gzip.open(sources[0], "rt") as file:
        models = list(json.loads(next(file))["scores"])
    return evaluated(tmp_path_factory.mktemp("routerbench"), sources, models, keep=800)


def test_routing_between_two_models_beats_random(two_models: Evaluated) -> None:
    router = two_models.policies["router"]
    assert two_models.report["rows"] == 350
    assert two_models.report["known"] == 0
    assert router["apgr"] > 0.5 + APGR_MARGIN
    assert router["aiq"] > two_models.policies["random"]["aiq"] + 0.005
    assert two_models.policies["oracle"]["apgr"] > 1.0


def test_routing_between_eleven_models_beats_random(eleven_models: Evaluated) -> None:
    policies = eleven_models.policies
    assert policies["router"]["aiq"] > policies["random"]["aiq"] + AIQ_MARGIN
    assert policies["router"]["quality"] > policies["random"]["quality"] + 0.1
    assert policies["oracle"]["aiq"] > 0.95
    assert policies["cheapest model"]["cost_usd"] < policies["router"]["cost_usd"] < 0.01


def test_the_report_is_written(two_models: Evaluated, eleven_models: Evaluated) -> None:
    assert json.loads((two_models.output / "report.json").read_text()) == two_models.report
    plots = [path.name for path in sorted(two_models.output.glob("*.png"))]
    assert plots == ["quality_cost.png", "reliability.png", "share_quality.png"]
    assert sorted(path.name for path in eleven_models.output.glob("*.png")) == ["quality_cost.png", "reliability.png"]
