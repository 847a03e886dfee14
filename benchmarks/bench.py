"""What the rows share: how much to measure, the prompts, the work folder, and the indexes they need."""

import functools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import prompts
from benchmarks.process import ROOT, Finished, Service, Worker, finish, python, waypost
from index import DEFAULT_ENCODER

STARTER: Final = ROOT / "reference_prompts" / "starter"
MODELS: Final = ROOT / "reference_prompts" / "models.toml"
_LABELS: Final = ("small", "medium", "large")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to measure. `callers` aside, more only makes a figure steadier."""

    repeats: int = 7
    cold: int = 2_000
    """Cold decisions in one run of load."""
    hits: int = 10_000
    """Exact hits, or echoes, in one run."""
    stored: int = 1_000
    """Answers that are hit."""
    references: int = 10_000
    """References, answers and utterances where the claim is about 10,000."""
    vectors: int = 100_000
    """Vectors where the claim is about 100,000."""
    scopes: int = 100
    each: int = 10_000
    """Answers in each scope, where the claim is about a million in all."""
    lookups: int = 800
    """Lookups in a peer in one run: they are slow."""


FULL: Final = Sizes()
QUICK: Final = Sizes(
    repeats=2, cold=200, hits=500, stored=50, references=300, vectors=5_000, scopes=3, each=1_500, lookups=60
)  # fmt: skip
"""Says whether everything still runs, not how fast it is."""


# Some of the prompts have a phone number or an address.
_STORING: Final = {"WAYPOST_CACHE__PERSONAL_DATA": "store"}


class Bench:
    """One run of the benchmarks.

    Args:
        work: a folder for everything that is made on the way.
        sizes: how much to measure.
        files: of prompts to use in place of the generated ones, as many of each.
        fp32: folder of the encoder in fp32, for the row that compares with it.
        peers: the Python that has the peers installed, for the rows that compare with them.
    """

    def __init__(
        self,
        work: Path,
        sizes: Sizes = FULL,
        files: Sequence[Path] = (),
        fp32: Path | None = None,
        peers: Path | None = None,
    ) -> None:
        self.work, self.sizes, self.fp32, self.peers = work, sizes, fp32, peers
        needed = max(sizes.cold, 2 * sizes.stored, 256)
        self.prompts, self.data = prompts.load(files, needed)

    @functools.cached_property
    def cold(self) -> Path:
        """A file of prompts for cold decisions: nothing that is like them is stored."""
        return prompts.write(self.work / "cold.jsonl", self.prompts[: self.sizes.cold])

    @functools.cached_property
    def starter_index(self) -> Path:
        """The index of the starter references."""
        return self.build(STARTER, self.work / "starter")[0]

    @functools.cached_property
    def many(self) -> list[str]:
        """As many prompts as the big index has references."""
        return prompts.generate(self.sizes.references, seed=1)

    @functools.cached_property
    def references(self) -> Path:
        """A file of labelled prompts, as many as the big index has references."""
        return write_references(self.work / "references.jsonl", self.many)

    @functools.cached_property
    def big_index(self) -> Path:
        """The index of many references."""
        return self.build(self.references, self.work / "big")[0]

    def build(self, references: Path, output: Path) -> tuple[Path, Finished]:
        """Build an index with the command line; return its folder and what building took."""
        command = waypost("build-index", "--references", references, "--models", MODELS, "--output", output)
        return output, finish(command)

    def service(
        self, name: str, index: Path | None = None, *, echo: bool = False, env: Mapping[str, str] | None = None
    ) -> Service:
        """Start a service with a record of its own, on the starter index unless another is given."""
        module = "benchmarks.echo_server" if echo else "service.cli"
        return Service(index or self.starter_index, self.work / name, module=module, env={**_STORING, **(env or {})})

    def encoder(self, file: Path, folder: Path | None = None) -> Worker:
        """Start the encoder alone, with the prompts of a file."""
        worker = Worker(python("-m", "benchmarks.encoder_worker"))
        seen = worker.ask(do="load", prompts=str(file), encoder=str(folder or DEFAULT_ENCODER))
        self.mean_tokens = seen["mean_tokens"]
        return worker

    mean_tokens: float = 0.0


def write_references(path: Path, texts: Sequence[str], seed: int = 0) -> Path:
    """Write prompts as references, labelled at random: only how many there are matters here."""
    rng = random.Random(seed)
    rows = ({"id": f"r{i:06}", "prompt": text, "best_model": rng.choice(_LABELS)} for i, text in enumerate(texts))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
