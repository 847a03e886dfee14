"""The layout of the SQLite store, told as the numbered steps that led to it.

Owns every CREATE and ALTER. A step, once released, is never edited: what should be different is a
further step. It never reads or writes records. `index/sqlite_file.py` calls it when it opens a
store; the number of steps taken is in the file's `user_version`.
"""

import contextlib
import sqlite3
from collections.abc import Sequence

# "Wayp" in the file's header: tells a store from every other SQLite file, also for file(1).
APPLICATION_ID = 0x57617970

# Four answers' facts (vector, prompt, keys: about 2 kB each) fill a page. With 200,000 answers: a
# file a sixth smaller than with pages of 4096 and a feed a third faster; 16384 gains no more speed
# and makes a small write log twice as much.
PAGE_SIZE = 8192

# 1. Answers, references, and the feed of their changes.
#
# `seq` is the table's own order (it is the rowid), so the feed reads straight on through the file,
# and a record that is replaced leaves its row and becomes a new one at the end.
#
# What an answer says has a table of its own: it may be megabytes, and the feed that rebuilds a
# view from a million vectors must not wade through it.
#
# `counter` is what makes a `seq` unique for ever: the highest row may be deleted, it may not.
_ANSWERS_REFERENCES_AND_FEED = """
CREATE TABLE answer (
    seq          INTEGER PRIMARY KEY,
    scope        TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    key          BLOB    NOT NULL,
    context      BLOB    NOT NULL,
    model        TEXT    NOT NULL,
    encoder      TEXT    NOT NULL,
    stored_at    REAL    NOT NULL,
    expires_at   REAL    NOT NULL,
    content_type TEXT    NOT NULL,
    source_tags  TEXT    NOT NULL,  -- JSON list
    truncated    INTEGER NOT NULL,
    vector       BLOB    NOT NULL,
    prompt       TEXT    NOT NULL,
    UNIQUE (scope, id)
) STRICT;
CREATE INDEX answer_by_scope ON answer (scope);

CREATE TABLE answer_content (
    seq     INTEGER PRIMARY KEY REFERENCES answer ON DELETE CASCADE,
    content TEXT NOT NULL,
    chunks  TEXT NOT NULL  -- JSON list
) STRICT;

CREATE TABLE reference (
    seq        INTEGER PRIMARY KEY,
    scope      TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    best_model TEXT    NOT NULL,
    scores     TEXT    NOT NULL,  -- JSON object
    costs      TEXT    NOT NULL,  -- JSON object
    messages   TEXT    NOT NULL,  -- JSON list of [role, content]
    category   TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    note       TEXT    NOT NULL,
    encoder    TEXT    NOT NULL,
    vector     BLOB    NOT NULL,
    prompt     TEXT    NOT NULL,
    UNIQUE (scope, id)
) STRICT;
CREATE INDEX reference_by_scope ON reference (scope);

CREATE TABLE tombstone (
    seq   INTEGER PRIMARY KEY,
    kind  TEXT NOT NULL,
    scope TEXT NOT NULL,
    id    TEXT NOT NULL,
    UNIQUE (kind, scope, id)
) STRICT;

CREATE TABLE counter (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seq  INTEGER NOT NULL
) STRICT;
INSERT INTO counter VALUES (1, 0);
"""

# 2. What tells an answer from others, and further prompts that have the same answer. Of what is there already nobody
# knows: each is taken for one of its own.
_MEANINGS_AND_WORDINGS = """
ALTER TABLE answer ADD COLUMN meaning    BLOB NOT NULL DEFAULT x'';
ALTER TABLE answer ADD COLUMN wording_of TEXT NOT NULL DEFAULT '';
"""

# 3. What an answer is worth keeping for, and who may be served it.
#
# Of what is there already nobody knows what it saved; everyone in its scope was served it.
_WORTH_AND_PRIVACY = """
ALTER TABLE answer ADD COLUMN cost_usd   REAL    NOT NULL DEFAULT 0;
ALTER TABLE answer ADD COLUMN size       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answer ADD COLUMN private_to TEXT    NOT NULL DEFAULT '';
UPDATE answer SET size = length(CAST(prompt AS BLOB)) + coalesce((SELECT
    length(CAST(content AS BLOB)) + CASE chunks WHEN '[]' THEN 0 ELSE length(CAST(content AS BLOB)) END
    FROM answer_content WHERE answer_content.seq = answer.seq), 0);
"""

STEPS = (_ANSWERS_REFERENCES_AND_FEED, _MEANINGS_AND_WORDINGS, _WORTH_AND_PRIVACY)
NEWEST = len(STEPS)


def version_of(connection: sqlite3.Connection) -> int:
    """Return how many steps a file has taken."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, steps: Sequence[str]) -> None:
    """Take the steps that are missing, each of them wholly or not at all."""
    for number in range(version_of(connection) + 1, len(steps) + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {steps[number - 1]} PRAGMA user_version = {number}; COMMIT;")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise


def missing(connection: sqlite3.Connection, steps: Sequence[str]) -> list[str]:
    """Return the tables' columns, and the indexes, that a file which took all steps should have and has not."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        migrate(model, steps)
        return sorted(_parts(model) - _parts(connection))


def _parts(connection: sqlite3.Connection) -> set[str]:
    parts = connection.execute(
        "SELECT o.name || coalesce('.' || c.name, '') FROM sqlite_schema o LEFT JOIN pragma_table_info(o.name) c "
        "WHERE o.name NOT LIKE 'sqlite_%'"
    )
    return {str(part) for (part,) in parts}
