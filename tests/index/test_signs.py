"""What an answer's text gives away: plain failures, and sums that do not come out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.signs import SIGNS, failure, signs
from index.text import Context

JSON = Context(response_format="json_object")
SCHEMA = Context(response_format=json.dumps({"type": "object", "required": ["city"]}))
WRAPPED = Context(
    response_format=json.dumps({"type": "json_schema", "json_schema": {"name": "x", "schema": {"required": ["city"]}}})
)


def sign(prompt: str, answer: str, name: str) -> float:
    return float(signs(prompt, answer)[SIGNS.index(name)])


@pytest.mark.parametrize("answer", ["", " \n\t", "\u2003"])
def test_an_empty_answer_is_none(answer: str) -> None:
    assert failure(answer) == "empty"
    assert failure(answer, JSON) == "empty"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "Sorry, that is not something I can do.",
        "I cannot assist with this request.",
        "As an AI language model, I have no opinion.",
        "Unfortunately, I am unable to open links.",
    ],
)
def test_a_refusal_is_told(answer: str) -> None:
    assert failure(answer) == "refused"


@pytest.mark.parametrize(
    "answer",
    ["She said she was sorry.", "It cannot be done: 7 is prime.", "I can help with that: restart it.", "18", "Yes"],
)
def test_an_answer_is_no_refusal(answer: str) -> None:
    assert failure(answer) == ""


@pytest.mark.parametrize(
    "answer", ["```python\nprint(1)", "First, we take the", "The options are:", "one, two,", "f(x"]
)
def test_what_stops_in_the_middle_is_cut_off(answer: str) -> None:
    assert (failure(answer) == "cut off") == (answer != "f(x")


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        (JSON, '{"a": 1}', ""),
        (JSON, " [1, 2]\n", ""),
        (JSON, "Here you are: {}", "wrong format"),
        (JSON, '{"a": 1', "wrong format"),
        (JSON, '{"a": NaN}', "wrong format"),
        (JSON, "```json\n{}\n```", "wrong format"),
        (SCHEMA, '{"city": "Ulm"}', ""),
        (SCHEMA, '{"town": "Ulm"}', "wrong format"),
        (SCHEMA, '["city"]', "wrong format"),
        (WRAPPED, '{"city": "Ulm"}', ""),
        (WRAPPED, "{}", "wrong format"),
        (Context(response_format="text"), "no JSON", ""),
        (JSON, "[" * 100_000, "wrong format"),
    ],
)
def test_where_json_is_asked_only_json_will_do(context: Context, answer: str, expected: str) -> None:
    assert failure(answer, context) == expected


def test_sums_are_worked_out_again() -> None:
    assert sign("", "2 * 3 = 6 and <<6+4=10>>10", "right sums") == 2
    assert sign("", "It is $1,200 x 2 = $2,400.", "right sums") == 1
    assert sign("", "50% * 8 = 4", "a wrong sum") == 0
    assert sign("", "2 + 2 = 5", "a wrong sum") == 1
    assert sign("", "1/0 = 3, 2..3+1 = 3, 07+1=8", "right sums") == 0


def test_numbers_given_and_not_used_are_seen() -> None:
    prompt = "A ticket is 12 dollars. He gets 8 dollars back. What did he pay?"
    assert sign(prompt, "12 + 8 = 20", "a number of the prompt is not used") == 0
    assert sign(prompt, "It is 12.", "a number of the prompt is not used") == 1
    assert sign(prompt, "12 + 99 = 111", "numbers from nowhere") == 1


def test_text_from_outside_is_never_run() -> None:
    answer = "9**9**9**9**9 = 1, __import__('os') = 2, (1).real + 1 = 2, " + "1+" * 5_000 + "1 = 2"
    assert np.isfinite(signs("", answer)).all()


@given(st.text(max_size=300), st.text(max_size=600))
def test_signs_are_finite_numbers_for_any_text(prompt: str, answer: str) -> None:
    found = signs(prompt, answer)
    assert found.shape == (len(SIGNS),)
    assert np.isfinite(found).all()
    assert failure(answer, JSON) in {"", "empty", "wrong format"}
    assert failure(answer) in {"", "empty", "refused", "cut off"}


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "1+" * 50_000, "1 " * 50_000, ",5" * 50_000, "(" * 100_000, "1.1" * 50_000]
)
def test_long_and_odd_texts_are_read_in_no_time(text: str) -> None:
    # A regular expression that goes back and forth would take hours: the test's own limit of time is the check.
    assert np.isfinite(signs(text, text + " = 1")).all()
    assert failure(text) in {"", "cut off"}
