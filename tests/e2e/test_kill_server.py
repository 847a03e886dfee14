"""kill -9 a serving server, again and again: what it acknowledged is there, and is hit exactly."""

import random
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from waypost.v1 import references_pb2, types_pb2

from tests.conftest import start_server
from tests.e2e.history import History
from tests.e2e.kit import Client, serving

KILLS = 10
CALLERS = 4
GONE = ""


# Of many numbers written in hex some look like an account's, which is not stored.
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


@dataclass
class Caller:
    """Writes prompts of its own until the server goes away, and remembers what was acknowledged.

    `known` is the content of every prompt as it was last acknowledged, GONE where it was removed; `doubtful` holds
    what the call that never came back may have done to its prompt.
    """

    number: int
    known: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    acknowledged: int = 0

    @property
    def scope(self) -> str:
        return f"caller-{self.number}"

    def write(self, address: str, chance: random.Random) -> None:
        client = Client(address)
        try:
            while True:
                self._step(client, chance)
                self.acknowledged += 1
                self.doubtful.clear()
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - what a dead server looks like
        finally:
            client.close()

    def _step(self, client: Client, chance: random.Random) -> None:
        prompt = f"question {chance.randrange(40)} of caller {self.number}"
        content = uuid.uuid4().hex.translate(_LETTERS)
        action = chance.random()
        self.doubtful = {prompt: GONE if 0.7 <= action < 0.9 else content}
        if action < 0.4:
            client.put(prompt, content, self.scope, chunks=[content[:5], content[5:]], source_tags=[prompt])
        elif action < 0.7:
            refresh = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_REFRESH)
            decision = client.decide(prompt, self.scope, cache=refresh)
            assert client.report(decision, content, source_tags=[prompt]).stored
        elif action < 0.9:
            client.invalidate(self.scope, source_tags=[prompt])
            content = GONE
        else:
            client.upsert(references_pb2.Reference(id=prompt, prompt=prompt, best_model="small"), scope=self.scope)
            self.references.add(prompt)
            return
        self.known[prompt] = content

    def check(self, client: Client) -> None:
        there = {answer.prompt: answer.content for answer in client.answers(self.scope)}
        for prompt in {*self.known, *self.doubtful, *there}:
            found = there.get(prompt, GONE)
            assert found in {self.known.get(prompt, GONE), self.doubtful.get(prompt, self.known.get(prompt, GONE))}
            self.known[prompt] = found
            exact = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_EXACT_ONLY)
            assert client.decide(prompt, self.scope, cache=exact).answer.content == found
        listed = client.references.List(references_pb2.ListRequest(scope=self.scope, page_size=1_000))
        assert self.references <= {reference.id for reference in listed.references}
        self.doubtful.clear()


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(starter_index: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    callers = [Caller(number) for number in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(KILLS):
            server = start_server(starter_index, tmp_path)
            client = Client(server.address)
            for caller in callers:
                caller.check(client)
            before = sum(caller.acknowledged for caller in callers)
            writing = [pool.submit(c.write, server.address, random.Random(chance.random())) for c in callers]
            enough = before + chance.randrange(20, 120)
            while sum(caller.acknowledged for caller in callers) < enough and not any(w.done() for w in writing):
                time.sleep(0.001)
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            for work in writing:
                work.result(30)
            client.close()
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        for caller in callers:
            caller.check(client)
            assert len(caller.known) > 20
        client.close()


def test_callers_at_once_never_see_what_was_removed_or_replaced(client: Client, scope: str) -> None:
    history, lock = History(), threading.Lock()
    prompts = [f"what is the meaning of topic{i}" for i in range(5)]

    def now() -> int:
        with lock:
            return history.now()

    def call(seed: int) -> None:
        chance = random.Random(seed)
        for step in range(60):
            prompt, start = chance.choice(prompts), now()
            action = chance.random()
            if action < 0.3:
                version = f"{seed}.{step}"
                client.put(prompt, version, scope, source_tags=[prompt])
                with lock:
                    history.put(prompt, version, start)
            elif action < 0.9:
                found = client.decide(prompt, scope, cache=types_pb2.CacheControl(error_budget=0)).answer.content
                with lock:
                    history.looked_up(prompt, found, start)
            else:
                everything = chance.random() < 0.5
                client.invalidate(scope, **({"all": True} if everything else {"source_tags": [prompt]}))
                with lock:
                    history.removed(prompts if everything else [prompt], start)

    with ThreadPoolExecutor(8) as pool:
        for work in [pool.submit(call, seed) for seed in range(8)]:
            work.result()
    hits, misses = history.check()
    assert hits > 50
    assert misses > 10
