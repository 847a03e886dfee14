"""Answers with outcomes: read, or refused with file, line and field."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from index.errors import InputError
from index.judged import JudgedAnswer, read_judged
from index.references import RowsError
from tests.service.kit import catalogue

ROW = {"prompt": "What is 2 + 3?", "answer": "5", "model": "small", "correct": 1}


def write(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.jsonl.gz"])
def test_rows_are_read_and_aliases_become_ids(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROW, "", ROW | {"answer": "", "correct": False})
    assert read_judged([path], catalogue()) == [
        JudgedAnswer("What is 2 + 3?", "5", "small-1", correct=True),
        JudgedAnswer("What is 2 + 3?", "", "small-1", correct=False),
    ]
    assert len(read_judged([tmp_path], catalogue())) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "is not valid JSON"),
        ([1], "must be an object"),
        ({"prompt": "a"}, "answer: is missing"),
        (ROW | {"prompt": " "}, "prompt: must be text"),
        (ROW | {"prompt": "x" * ((1 << 20) + 1)}, "prompt: must be text"),
        (ROW | {"answer": None}, "answer: must be text"),
        (ROW | {"answer": "x" * ((4 << 20) + 1)}, "answer: must be text"),
        (ROW | {"model": "smal"}, "did you mean 'small'?"),
        (ROW | {"model": 3}, "model: the catalogue has no model"),
        (ROW | {"correct": 0.5}, "correct: must be 1 (right) or 0 (wrong)"),
        (ROW | {"correct": 1.0}, "correct: must be 1 (right) or 0 (wrong)"),
        (ROW | {"correct": "yes"}, "correct: must be 1 (right) or 0 (wrong)"),
        (ROW | {"correct": [1]}, "correct: must be 1 (right) or 0 (wrong)"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path / "answers.jsonl", ROW, row)
    with pytest.raises(RowsError) as refused:
        read_judged([path], catalogue())
    assert f"{path}:2" in str(refused.value)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        read_judged([tmp_path / "nothing.jsonl"], catalogue())
