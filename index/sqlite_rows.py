"""Records as rows of the SQLite store, and rows as records.

Owns which column holds which field, and the statements that follow from it. It never executes
anything. Only `index/sqlite_store.py` calls it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from index.records import Answer, LiveReference, Message, Reference
from index.store import Change, Kind, Record, RecordKey, key_of, unstorable

Row = tuple[Any, ...]  # Any: what a column holds is known to SQLite, and kept by STRICT tables

INSERT_ANSWER = """INSERT INTO answer (seq, scope, id, key, context, model, encoder, stored_at,
    expires_at, content_type, source_tags, truncated, vector, prompt, meaning, wording_of, cost_usd, size,
    private_to)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
INSERT_CONTENT = "INSERT INTO answer_content (seq, content, chunks) VALUES (?, ?, ?)"
INSERT_REFERENCE = """INSERT INTO reference (seq, scope, id, best_model, scores, costs, messages,
    category, source, note, encoder, vector, prompt)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_ANSWER_COLUMNS = """seq, scope, id, key, context, model, encoder, stored_at, expires_at,
    content_type, source_tags, truncated, vector, prompt, meaning, wording_of, cost_usd, size, private_to"""
_REFERENCE_COLUMNS = """seq, scope, id, best_model, scores, costs, messages, category, source,
    note, encoder, vector, prompt"""

# LEFT JOIN: an answer whose content is gone must be noticed, not vanish.
# The statements are put together from the constants above, and from nothing else.
_ANSWERS = f"""SELECT {_ANSWER_COLUMNS}, content, chunks
    FROM answer LEFT JOIN answer_content USING (seq)"""  # noqa: S608
_REFERENCES = f"SELECT {_REFERENCE_COLUMNS} FROM reference"  # noqa: S608

GET = {
    Kind.ANSWER: f"{_ANSWERS} WHERE scope = ? AND id = ?",
    Kind.REFERENCE: f"{_REFERENCES} WHERE scope = ? AND id = ?",
}
SCAN = {
    Kind.ANSWER: f"{_ANSWERS} WHERE scope = ? AND seq > ? ORDER BY seq LIMIT ?",
    Kind.REFERENCE: f"{_REFERENCES} WHERE scope = ? AND seq > ? ORDER BY seq LIMIT ?",
}


def rows_of_answer(seq: int, answer: Answer) -> tuple[Row, Row]:
    """Return the rows of `answer` and `answer_content`.

    Raises:
        StoreError: A field has no representation.
    """
    if not all(map(math.isfinite, (answer.stored_at, answer.expires_at, answer.cost_usd))):
        raise unstorable(key_of(answer), "a time or a cost is not finite")
    facts = (
        seq,
        answer.scope,
        answer.id,
        answer.key,
        answer.context,
        answer.model,
        answer.encoder,
        answer.stored_at,
        answer.expires_at,
        answer.content_type,
        _json(answer.source_tags),
        answer.truncated,
        answer.vector,
        answer.prompt,
        answer.meaning,
        answer.wording_of,
        answer.cost_usd,
        answer.size,
        answer.private_to,
    )
    return facts, (seq, answer.content, _json(answer.chunks))


def row_of_reference(seq: int, live: LiveReference) -> Row:
    """Return the row of `reference`.

    Raises:
        StoreError: A field has no representation.
    """
    reference = live.reference
    try:
        scores, costs = _json(dict(reference.scores)), _json(dict(reference.costs))
    except ValueError as error:
        raise unstorable(key_of(live), error) from None
    return (
        seq,
        live.scope,
        reference.id,
        reference.best_model,
        scores,
        costs,
        _json([(message.role, message.content) for message in reference.messages]),
        reference.category,
        reference.source,
        reference.note,
        live.encoder,
        live.vector,
        reference.prompt,
    )


def answer_of(row: Row) -> Answer:
    """Return the answer of a row.

    Raises:
        ValueError: The row is damaged.
    """
    (
        _seq,
        scope,
        id_,
        key,
        context,
        model,
        encoder,
        stored_at,
        expires_at,
        content_type,
        source_tags,
        truncated,
        vector,
        prompt,
        meaning,
        wording_of,
        cost_usd,
        size,
        private_to,
        content,
        chunks,
    ) = row
    if content is None:
        raise ValueError(f"the content of answer {id_!r} of scope {scope!r} is missing")
    # By position, in the order of `Answer`: names would cost a tenth of the whole feed.
    return Answer(
        id_,
        scope,
        key,
        context,
        prompt,
        content,
        model,
        encoder,
        vector,
        stored_at,
        expires_at,
        _texts(chunks),
        content_type,
        _texts(source_tags),
        bool(truncated),
        meaning,
        wording_of,
        cost_usd,
        size,
        private_to,
    )


def reference_of(row: Row) -> LiveReference:
    """Return the live reference of a row.

    Raises:
        ValueError: The row is damaged.
    """
    (
        _seq,
        scope,
        id_,
        best_model,
        scores,
        costs,
        messages,
        category,
        source,
        note,
        encoder,
        vector,
        prompt,
    ) = row
    reference = Reference(
        id=id_,
        prompt=prompt,
        best_model=best_model,
        scores=json.loads(scores),
        costs=json.loads(costs),
        messages=tuple(Message(role, content) for role, content in json.loads(messages)),
        category=category,
        source=source,
        note=note,
    )
    return LiveReference(scope, reference, encoder, vector)


RECORD_OF: Mapping[Kind, Callable[[Row], Record]] = {
    Kind.ANSWER: answer_of,
    Kind.REFERENCE: reference_of,
}


def answer_change(row: Row) -> Change:
    """Return the change that an answer's row is in the feed."""
    return Change(row[0], RecordKey(Kind.ANSWER, row[1], row[2]), answer_of(row))


def reference_change(row: Row) -> Change:
    """Return the change that a reference's row is in the feed."""
    return Change(row[0], RecordKey(Kind.REFERENCE, row[1], row[2]), reference_of(row))


def tombstone_change(row: Row) -> Change:
    """Return the deletion that a tombstone's row is in the feed."""
    seq, kind, scope, id_ = row
    return Change(seq, RecordKey(Kind(kind), scope, id_), None)


# By whether contents are wanted: what the feed is merged from.
FEEDS: Mapping[bool, Sequence[tuple[str, Callable[[Row], Change]]]] = {
    contents: (
        (f"{answers} WHERE seq > ? ORDER BY seq LIMIT ?", answer_change),
        (f"{_REFERENCES} WHERE seq > ? ORDER BY seq LIMIT ?", reference_change),
        ("SELECT seq, kind, scope, id FROM tombstone WHERE seq > ? ORDER BY seq LIMIT ?", tombstone_change),
    )
    for contents, answers in (
        (True, _ANSWERS),
        (False, f"SELECT {_ANSWER_COLUMNS}, '', '[]' FROM answer"),  # noqa: S608
    )
}

CHANGE_OF: Mapping[Kind, Callable[[Row], Change]] = {
    Kind.ANSWER: answer_change,
    Kind.REFERENCE: reference_change,
}


def _json(value: Sequence[object] | Mapping[str, float]) -> str:
    # Not ASCII only: most text is shorter as it is, and half a surrogate pair must not slip by.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _texts(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(json.loads(text))
