"""kill -9 at any moment: what was acknowledged is there, the rest is there wholly or not at all.

Run as a program, this file is the victim: it writes until it is killed, and says what was
acknowledged.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from index.records import Answer, LiveReference, Reference
from index.sqlite_store import SqliteStore
from index.store import Kind, MemoryStore, Record, RecordKey, Store

ROOT = Path(__file__).parents[2]
KILLS = 48


def answer(id_: str, content: str) -> Answer:
    return Answer(id_, "acme", b"k", b"c", "prompt", content, "small", "e", b"\1" * 1536, 1.0)


def do(store: Store, number: int) -> int:
    """Write the batch of that number: several records that belong together, and deletions."""
    # Often megabytes, so that a kill comes in the middle of writing: with less, a store without
    # any journal would pass.
    size = 2_000_000 if number % 3 == 0 else 100
    puts: list[Record] = [
        answer(f"{number % 5}", f"{number} " * (size // 4)),
        answer("latest", f"{number}"),
        answer(f"new{number}", f"{number}"),
        LiveReference("acme", Reference("latest", f"{number}"), "e", b"\2" * 1536),
    ]
    deletes = [
        RecordKey(Kind.ANSWER, "acme", f"new{number - 3}"),
        RecordKey(Kind.ANSWER, "acme", f"{(number + 2) % 5}"),
    ]
    return store.write(puts, deletes)


def be_the_victim(path: Path, first: int) -> None:
    store = SqliteStore(path)
    os.write(1, b"opened\n")
    for number in count(first):
        os.write(1, b"%d %d\n" % (number, do(store, number)))


@contextmanager
def victim(path: Path, first: int) -> Iterator[subprocess.Popen[bytes]]:
    # Without the site's packages, which a store does not need: it starts in half the time.
    command = [sys.executable, "-S", __file__, str(path), str(first)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    chance = random.Random(20)
    path = tmp_path / "store.db"
    model, done = MemoryStore(), 0  # the model has the first `done` batches
    unacknowledged = 0
    for kill in range(KILLS):
        with victim(path, done) as process:
            assert process.stdout
            heard: list[bytes] = []
            if kill % 6 == 5:
                time.sleep(chance.uniform(0, 0.12))  # while it starts, or plays the log back
            else:
                heard += [process.stdout.readline() for _ in range(chance.randrange(1, 40))]
                time.sleep(chance.uniform(0, 0.01))
            process.kill()
            heard += process.stdout.readlines()
        acknowledged = [line.split() for line in heard if line not in {b"", b"opened\n"}]
        with closing(SqliteStore(path)) as store:  # it checks the whole file
            last = store.write([])
            while model.write([]) < last:
                do(model, done)
                done += 1
            if acknowledged:
                number, seq = map(int, acknowledged[-1])
                assert last >= seq, "an acknowledged write was lost"
                assert done - (number + 1) in {0, 1}
                unacknowledged += done - (number + 1)
            assert model.write([]) == last, "half of a write was kept"
            assert store.changes(0, 100_000) == model.changes(0, 100_000)
    assert done > KILLS
    assert unacknowledged, "no kill ever came between a write and its acknowledgement"


def test_a_store_killed_while_it_is_made_can_be_opened(tmp_path: Path) -> None:
    chance = random.Random(21)
    for kill in range(12):
        path = tmp_path / f"{kill}.db"
        with victim(path, 0):
            time.sleep(chance.uniform(0.02, 0.09))
        with closing(SqliteStore(path)) as store:
            model = MemoryStore()
            for number in count():
                if model.write([]) >= store.write([]):
                    break
                do(model, number)
            assert store.changes(0, 100_000) == model.changes(0, 100_000)


if __name__ == "__main__":
    be_the_victim(Path(sys.argv[1]), int(sys.argv[2]))
