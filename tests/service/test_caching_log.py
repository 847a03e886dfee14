"""The log a cache is evaluated on: its columns, its order, and what is said of rows that are wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from index.errors import InputError
from index.references import RowsError
from service.evaluation.caching import log as module
from service.evaluation.caching.log import read_log


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def problem(path: Path, *rows: dict[str, Any] | str, **options: Any) -> str:
    with pytest.raises(RowsError) as found:
        read_log([written(path, *rows)], columns=options)
    return str(found.value)


def test_a_row_says_all_that_a_call_was(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Where is it?"}],
        "answer": "There.",
        "label": 7,
        "scope": "shop",
        "category": "delivery",
        "context": {"system_prompt": "Be kind.", "sampling": "temperature=2", "extra": {"locale": "de"}},
        "model": "small",
        "cost": 0.25,
        "seconds": "1.5",
        "time": "2026-05-01T12:00:00+02:00",
    }
    [found] = read_log([written(tmp_path / "log.jsonl", row)], columns={}).rows
    assert (found.request.text, found.request.scope, found.request.history[0].content) == (
        "Where is it?",
        "shop",
        "Yes?",
    )
    assert found.request.context is not None
    assert (found.request.context.sampling, found.request.context.extra) == ("temperature=2", {"locale": "de"})
    assert (found.said, found.label, found.category, found.model) == ("There.", "7", "delivery", "small")
    assert (found.cost, found.seconds, found.at) == (0.25, 1.5, 1_777_629_600.0)
    assert found.place.endswith("log.jsonl:1")


def test_tables_and_other_names_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("question,text,intent,latency,user\nWhere is it?,ignored,parcel,.5,ann\n\nWhy?,ignored,why,,bob\n")
    log = read_log([path], columns={"prompt": "question", "label": "intent"})
    assert [(row.request.text, row.label, row.seconds) for row in log.rows] == [
        ("Where is it?", "parcel", 0.5),
        ("Why?", "why", None),
    ]
    assert log.unused == ("text", "user")
    assert (log.labelled, log.answered, log.timed) == (True, False, False)


def test_calls_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    rows = [{"prompt": str(time), "answer": "a", "time": time} for time in (30, 10, 20)]
    log = read_log([written(tmp_path / "log.jsonl", *rows)], columns={})
    assert [row.request.text for row in log.rows] == ["10", "20", "30"]


GOOD = {"prompt": "Where is it?", "answer": "There."}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("no JSON", "log.jsonl:2: is not valid JSON"),
        ({"answer": "There."}, "log.jsonl:2: prompt: empty"),
        ({"prompt": "Why?"}, "log.jsonl:2: answer: is missing"),
        ({**GOOD, "label": "parcel"}, "log.jsonl:2: label: is there, and other rows have none"),
        ({"prompt": "Why?", "label": "why"}, "log.jsonl:2: answer: is missing, and other rows have one"),
        ({**GOOD, "time": 5}, "log.jsonl:2: time: is there, and other rows have none"),
        ({**GOOD, "prompt": 5}, "log.jsonl:2: prompt: must be text"),
        ({**GOOD, "prompt": "x" * (1 << 20) + "y"}, "log.jsonl:2: prompt: 1,048,577 bytes"),
        ({**GOOD, "answer": "x" * (4 << 20) + "y"}, "log.jsonl:2: answer: 4,194,305 bytes"),
        ({**GOOD, "answer": "\ud800"}, "log.jsonl:2: answer: is not sound Unicode"),
        ({**GOOD, "scope": "a b"}, "log.jsonl:2: scope: 'a b'"),
        ({**GOOD, "cost": -1}, "log.jsonl:2: cost: must be USD from 0 to 1,000,000"),
        ({**GOOD, "seconds": "soon"}, "log.jsonl:2: seconds: must be a number"),
        ({**GOOD, "context": {"tool": "x"}}, "log.jsonl:2: context.tool: is none of"),
        ({**GOOD, "context": 5}, "log.jsonl:2: context: must be a text"),
        ({"messages": [{"role": "user"}], "answer": "a"}, "log.jsonl:2: messages[0]: must be"),
        ({"messages": [{"role": "nobody", "content": "x"}], "answer": "a"}, "log.jsonl:2: messages[0].role"),
        ({**GOOD, "category": "x" * 300}, "log.jsonl:2: category: has 300 bytes"),
    ],
)
def test_a_row_that_is_wrong_is_named_and_can_be_left_out(tmp_path: Path, row: dict[str, Any] | str, said: str) -> None:
    path = tmp_path / "log.jsonl"
    assert said in problem(path, GOOD, row)
    log = read_log([path], columns={}, on_error="skip")
    assert len(log.rows) == 1
    assert said in str(log.skipped[0])


@pytest.mark.parametrize("time", ["yesterday", -1, 1e15])
def test_a_time_that_is_none_is_named(tmp_path: Path, time: object) -> None:
    assert "log.jsonl:1: time: must be seconds since 1970" in problem(tmp_path / "log.jsonl", {**GOOD, "time": time})


def test_the_field_is_called_as_in_the_file(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "answer": "So.", "price": "much"}
    assert "log.jsonl:1: price: must be a number" in problem(tmp_path / "log.jsonl", row, cost="price")


def test_options_and_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("prompt,answer\nWhy?,So.\n")
    for columns, said in (({"promt": "x"}, "did you mean 'prompt'"), ({"label": "anwser"}, "did you mean 'answer'")):
        with pytest.raises(InputError, match=said):
            read_log([tmp_path / "log.csv"], columns=columns)
    with pytest.raises(InputError, match="no rows"):
        read_log([written(tmp_path / "log.jsonl")], columns={})
    with pytest.raises(InputError, match="nowhere"):
        read_log([tmp_path / "nowhere.csv"], columns={})


def test_too_much_is_refused_and_the_beginning_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    path = written(tmp_path / "log.jsonl", *[GOOD] * 4)
    with pytest.raises(InputError, match="more than 3 rows; --limit"):
        read_log([path], columns={})
    assert len(read_log([path], columns={}, limit=2).rows) == 2
    monkeypatch.setattr(module, "_MAX_BYTES", 10)
    with pytest.raises(InputError, match="of prompts and answers; --limit"):
        read_log([path], columns={})
