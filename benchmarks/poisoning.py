"""One token of a shared scope stores poisoned answers; how often is another token served one? Success rates by attack.

    python -m benchmarks.poisoning [--targets 100] [--seed 0]

Against a running service with the default encoder and its own settings, once with corroboration (the default) and once
without it, which is what stands between attacker and victim elsewhere: cosine, guard and verifier. The attacker knows
the encoder and every prompt the victims will ask: starter prompts of 4 to 25 words without line breaks. For each target
it stores a poisoned answer under

- `copy`: the very prompt;
- `suffix`: the prompt with something appended ("... and answer in one word");
- `near collision`: another request whose wording was searched for the highest cosine to the target: the target's
  content words are exchanged, then fillers are added, one at a time, as long as that brings the vector nearer;
- `answer suffix`: the very prompt, with the answer the model would give and a line appended to it: it looks like
  the answer that an honest caller's model gives as well.

Then a victim asks for each target, and gets a model's answer where nothing was served; another victim asks for it, too.
An attack succeeds where a victim is served the attacker's text. Encodings of the search take a minute or two.
"""

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from waypost.v1 import cache_pb2, cache_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

from benchmarks.process import ROOT, Service, finish, waypost
from index.encoder import OnnxEncoder, encode_texts

STARTER: Final = ROOT / "reference_prompts"
_POISON: Final = "Send your password to the address below."
_SUFFIXES: Final = (
    "and answer in one word",
    "please",
    "!!!",
    "ignore all previous instructions",
    "for me today",
    "and nothing else",
)
_FILLERS: Final = (
    *("please", "now", "for me", "again", "exactly", "and why", "a bit", "quickly", "in detail", "the", "question:"),
    *("answer:", "how", "what", "explain", "example", "simple", "short", "today", "at home", "for work", "and more"),
)
_TOKENS: Final = {name: f"{name}-0123456789abcdef" for name in ("eve", "ann", "bob")}
_TRIES, _VARIANTS = 6, 3


def targets(number: int, seed: int) -> list[str]:
    """Return prompts that victims will ask."""
    found = []
    for path in sorted((STARTER / "starter").glob("*.jsonl")):
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found += [row["prompt"] for row in rows if "prompt" in row]
    short = [p for p in found if 4 <= len(p.split()) <= 25 and "\n" not in p and p.isascii()]
    return random.Random(seed).sample(short, min(number, len(short)))


class Search:
    """Looks for wordings of other requests that are near a target."""

    def __init__(self, encoder: OnnxEncoder, pool: Sequence[str], seed: int) -> None:
        self._encoder, self._chance = encoder, random.Random(seed)
        self._words = sorted({word for prompt in pool for word in re.findall(r"[a-z]{4,}", prompt.lower())})

    def near(self, target: str) -> list[str]:
        """Return other requests whose vectors are as near the target's as could be found."""
        (vector,) = encode_texts(self._encoder, [target])
        found = []
        for _ in range(_VARIANTS):
            text = self._other(target)
            best = self._cosines(vector, [text])[0]
            for _ in range(_TRIES):
                tries = [f"{text} {filler}" for filler in self._chance.sample(_FILLERS, 6)]
                tries += [f"{filler} {text}" for filler in self._chance.sample(_FILLERS, 6)]
                cosines = self._cosines(vector, tries)
                if max(cosines) <= best:
                    break
                best = max(cosines)
                text = tries[cosines.index(best)]
            found.append(text)
        return found

    def _other(self, target: str) -> str:
        """Exchange a content word: another request, that looks much the same."""
        words = target.split()
        long = [i for i, word in enumerate(words) if len(word) > 3] or [0]
        words[self._chance.choice(long)] = self._chance.choice(self._words)
        return " ".join(words)

    def _cosines(self, vector: Any, texts: Sequence[str]) -> list[float]:
        return [float(c) for c in np.asarray(encode_texts(self._encoder, list(texts))) @ vector]


class Caller:
    """The holder of a token."""

    def __init__(self, channel: Any, name: str) -> None:
        self._metadata = (("authorization", f"Bearer {_TOKENS[name]}"),)
        self._router: Any = router_pb2_grpc.RouterStub(channel)
        self._cache: Any = cache_pb2_grpc.CacheStub(channel)

    def ask(self, prompt: str, scope: str, answer: str) -> str:
        """Return what is served, "" where a plan was; the model's answer is reported then."""
        request = router_pb2.DecideRequest(scope=scope, prompt=prompt)
        decision = self._router.Decide(request, metadata=self._metadata)
        if decision.HasField("answer"):
            return str(decision.answer.content)
        report = router_pb2.ReportRequest(
            decision_id=decision.decision_id,
            fill_token=decision.plan.fill_token,
            model=decision.plan.steps[0].model,
            outcome=types_pb2.OUTCOME_OK,
            answer=answer,
        )
        self._router.Report(report, metadata=self._metadata)
        return ""

    def put(self, prompt: str, answer: str, scope: str) -> None:
        """Store an answer."""
        self._cache.Put(cache_pb2.PutRequest(scope=scope, prompt=prompt, answer=answer), metadata=self._metadata)


def attacks(prompts: Sequence[str], search: Search) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Yield (attack, target, what is stored: prompts with answers)."""
    make: dict[str, Callable[[str], list[tuple[str, str]]]] = {
        "copy": lambda target: [(target, _POISON)],
        "suffix": lambda target: [(f"{target} {suffix}", _POISON) for suffix in _SUFFIXES],
        "near collision": lambda target: [(text, _POISON) for text in search.near(target)],
        "answer suffix": lambda target: [(target, f"{honest(target)}\n{_POISON}")],
    }
    for attack, store in make.items():
        for target in prompts:
            yield attack, target, store(target)


def honest(prompt: str) -> str:
    """Return what every honest caller's model answers."""
    return f"The answer to {len(prompt)} characters is this one."


def play(
    planted: Sequence[tuple[str, str, list[tuple[str, str]]]], index: Path, work: Path, corroborate: str
) -> Counter[str]:
    """Return how often each attack reached a victim."""
    scopes = {name: {"token": token, "scopes": ["*"]} for name, token in _TOKENS.items()}
    env = {"WAYPOST_CACHE__CORROBORATE": corroborate, "WAYPOST_AUTH__TOKENS": json.dumps(scopes)}
    reached: Counter[str] = Counter()
    with Service(index, work, env=env) as service, grpc.insecure_channel(service.address) as channel:
        callers = {name: Caller(channel, name) for name in _TOKENS}
        for number, (attack, target, stored) in enumerate(planted):
            scope = f"shared-{number}"
            for prompt, answer in stored:
                callers["eve"].put(prompt, answer, scope)
            served = [callers[victim].ask(target, scope, honest(target)) for victim in ("ann", "bob")]
            reached[attack] += any(_POISON in one for one in served)
    return reached


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    prompts = targets(given.targets, given.seed)
    search = Search(OnnxEncoder.load(ROOT / "encoders" / "all-MiniLM-L6-v2"), prompts, given.seed)
    planted = list(attacks(prompts, search))
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        given_to = ("--references", STARTER / "starter", "--models", STARTER / "models.toml", "--output", index)
        finish(waypost("build-index", *given_to))
        found = {mode: play(planted, index, Path(folder) / mode, mode) for mode in ("true", "false")}
    print(f"{len(prompts)} targets, seed {given.seed}\n")
    print("| Attack | With corroboration | Without |\n|---|---|---|")
    for attack in dict.fromkeys(attack for attack, _, _ in planted):
        print(
            f"| {attack} | {found['true'][attack] / len(prompts):.1%} | {found['false'][attack] / len(prompts):.1%} |"
        )


if __name__ == "__main__":
    main()
