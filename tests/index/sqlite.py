"""What the tests of the SQLite store put into it."""

from contextlib import closing
from pathlib import Path

from index.records import Answer
from index.sqlite_store import SqliteStore
from index.store import Kind


def answer(id_: str, content: str = "42") -> Answer:
    return Answer(
        id=id_,
        scope="acme",
        key=b"k" * 32,
        context=b"c" * 16,
        prompt="What is six times seven?",
        content=content,
        model="small",
        encoder="e" * 64,
        vector=b"\1\2\3\4" * 384,
        stored_at=1_760_000_000.0,
    )


def fill(path: Path, answers: int = 200) -> None:
    with closing(SqliteStore(path)) as store:
        store.write([answer(f"{number:04}", "said " * 300) for number in range(answers)])


def here(store: SqliteStore, id_: str) -> bool:
    return bool(store.get(Kind.ANSWER, "acme", [id_]))
