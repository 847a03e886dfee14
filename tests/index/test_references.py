"""References: what a row may hold, how files of them are read and written, and what is told."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.catalogue import Catalogue, load_catalogue
from index.errors import ReferenceError_
from index.records import Message, Model, Reference
from index.references import (
    Problem,
    RowError,
    RowsError,
    read_references,
    reference_from_row,
    reference_to_row,
    warnings,
    write_references,
)

ROOT = Path(__file__).parents[2]
CATALOGUE = Catalogue(
    (
        Model("gpt-5", 1.0, 8.0, 400_000, aliases=("large",)),
        Model("gpt-5-mini", 0.2, 2.0, 400_000, aliases=("small", "cheap")),
    )
)
ROW: dict[str, object] = {"id": "a", "prompt": "Add 2 and 3.", "best_model": "gpt-5"}


def write_rows(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def problems_of(*paths: Path) -> list[Problem]:
    with pytest.raises(RowsError) as caught:
        read_references(paths, CATALOGUE)
    return caught.value.problems


def fault_of(row: object) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        reference_from_row(row, CATALOGUE)
    return caught.value.field, caught.value.message


def test_a_labelled_row_is_read(tmp_path: Path) -> None:
    row = ROW | {"category": "math", "source": "exam", "note": "easy"}
    result = read_references([write_rows(tmp_path / "a.jsonl", row)], CATALOGUE)
    assert result.references == [Reference("a", "Add 2 and 3.", "gpt-5", category="math", source="exam", note="easy")]
    assert result.skipped == []
    assert result.files == (tmp_path / "a.jsonl",)


def test_aliases_become_ids_everywhere() -> None:
    scored = {"id": "a", "prompt": "p", "scores": {"large": 1, "cheap": 0.5}, "costs": {"large": 2}}
    reference = reference_from_row(scored, CATALOGUE)
    assert reference.scores == {"gpt-5": 1.0, "gpt-5-mini": 0.5}
    assert reference.costs == {"gpt-5": 2.0}
    assert reference_from_row(ROW | {"best_model": "small"}, CATALOGUE).best_model == "gpt-5-mini"


def test_a_conversation_is_embedded_by_its_last_turn() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Why?"},
    ]
    reference = reference_from_row({"id": "a", "messages": messages, "best_model": "large"}, CATALOGUE)
    assert reference.prompt == "Why?"
    assert reference.messages[1] == Message("assistant", "")


def test_null_means_absent() -> None:
    row = ROW | {"scores": None, "costs": {"gpt-5": None}, "category": None, "messages": None}
    assert reference_from_row(row, CATALOGUE) == Reference("a", "Add 2 and 3.", "gpt-5")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"id": None}, "id", "is missing"),
        ({"id": " "}, "id", "is blank"),
        ({"id": 7}, "id", "must be text, not a number"),
        ({"id": "é" * 129}, "id", "has 258 bytes, more than 256"),
        ({"prompt": None}, "prompt", "is missing"),
        ({"prompt": " \n"}, "prompt", "is blank"),
        ({"prompt": ["x"]}, "prompt", "must be text, not a list"),
        ({"prompt": "x" * (1 << 20) + "y"}, "prompt", "has 1048577 bytes, more than 1048576"),
        ({"prompt": "a\ud800"}, "prompt", "is not sound Unicode: a byte that is not UTF-8, or half a surr"),
        ({"best_model": None}, "best_model", "is missing; give best_model or scores"),
        ({"best_model": ""}, "best_model", "is blank"),
        ({"best_model": True}, "best_model", "must be the name of a model, not a boolean"),
        (
            {"best_model": "gpt5"},
            "best_model",
            "the catalogue has no model 'gpt5'; did you mean 'gpt-5'?",
        ),
        ({"scores": {"gpt-5": 1}}, "best_model", "stands beside scores"),
        ({"costs": {"gpt-5": -1}}, "costs.gpt-5", "must be USD from 0 to 1,000,000, not -1"),
        ({"costs": {"gpt-5": 10**400}}, "costs.gpt-5", "must be USD from 0 to 1,000,000, not 1000"),
        ({"costs": {"gpt-5": 1e300}}, "costs.gpt-5", "must be USD from 0 to 1,000,000, not 1e+300"),
        ({"costs": {"gpt-5": "1"}}, "costs.gpt-5", "must be USD from 0 to 1,000,000, not text"),
        ({"costs": {"gpt-4": 1}}, "costs.gpt-4", "the catalogue has no model 'gpt-4'"),
        ({"costs": 3}, "costs", "must be an object of models and USD, not a number"),
        (
            {"costs": {"small": 1, "cheap": 2}},
            "costs.cheap",
            "stands for 'gpt-5-mini', which is there already",
        ),
        ({"category": 4}, "category", "must be text, not a number"),
        ({"note": "\udfff"}, "note", "is not sound Unicode"),
        (
            {"bestmodel": "x"},
            "bestmodel",
            "is not a key of a reference; did you mean 'best_model'?",
        ),
        ({"query": "x"}, "query", "is not a key of a reference; `waypost import` makes references"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str, message: str) -> None:
    found = fault_of(ROW | change)
    assert found[0] == field
    assert found[1].startswith(message)


@pytest.mark.parametrize(
    ("scores", "field", "message"),
    [
        ({}, "scores", "must be an object of at least one model and its score"),
        ([1], "scores", "must be an object of at least one model and its score"),
        ({"gpt-5": 1.5}, "scores.gpt-5", "must be a number from 0 to 1, not 1.5"),
        ({"gpt-5": -0.1}, "scores.gpt-5", "must be a number from 0 to 1, not -0.1"),
        ({"gpt-5": True}, "scores.gpt-5", "must be a number from 0 to 1, not true"),
        ({"gpt-5": None}, "scores.gpt-5", "must be a number from 0 to 1, not null"),
        ({"gpt-5": float("nan")}, "scores.gpt-5", "must be a number from 0 to 1, not NaN"),
        ({"gpt-6": 1}, "scores.gpt-6", "the catalogue has no model 'gpt-6'; did you mean 'gpt-5'?"),
        ({"large": 1, "gpt-5": 0}, "scores.gpt-5", "stands for 'gpt-5', which is there already"),
    ],
)
def test_wrong_scores_are_named_by_their_model(scores: object, field: str, message: str) -> None:
    found = fault_of({"id": "a", "prompt": "p", "scores": scores})
    assert found == (field, message)


@pytest.mark.parametrize(
    ("messages", "field", "message"),
    [
        ([], "messages", "must be a list of at least one"),
        ("hi", "messages", "must be a list of at least one"),
        (["hi"], "messages[0]", "must be a {role, content} object, not text"),
        ([{"role": "user"}], "messages[0].content", "is missing"),
        ([{"content": "hi"}], "messages[0].role", "is missing"),
        ([{"role": "user", "content": ""}], "messages[0].content", "is blank"),
        ([{"role": "user", "content": "x", "name": "y"}], "messages[0].name", "is not a key"),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "messages[1].role",
            "is 'assistant',",
        ),
    ],
)
def test_a_wrong_turn_is_named_by_its_number(messages: object, field: str, message: str) -> None:
    found = fault_of({"id": "a", "messages": messages, "best_model": "gpt-5"})
    assert found[0] == field
    assert found[1].startswith(message)


def test_prompt_and_messages_exclude_each_other() -> None:
    row = ROW | {"messages": [{"role": "user", "content": "x"}]}
    assert fault_of(row) == ("prompt", "stands beside messages; give one of them")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"[1]", "must be a JSON object, not a list"),
        (b'"x"', "must be a JSON object, not text"),
        (b'{"id": NaN}', "is not valid JSON: NaN is not a number JSON has; leave the value out"),
        (b'{"id": -Infinity}', "is not valid JSON: -Infinity is not a number JSON has"),
        (b'{"id": "a", "id": "b"}', "is not valid JSON: the key 'id' stands twice in one object"),
        (b'{"id": "\xff"}', "is not UTF-8: invalid start byte at byte 9"),
        (b'{"id": ' + b"9" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        (b"[" * 100_000, "is not valid JSON: "),
    ],
)
def test_a_line_that_is_no_row_is_named_by_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n")
    (problem,) = problems_of(path)
    assert (problem.file, problem.line, problem.field) == (str(path), 2, "")
    assert problem.message.startswith(message)
    assert str(problem).startswith(f"{path}:2: {message}")


def test_a_problem_reads_file_line_field_message_on_one_line() -> None:
    problem = Problem("a.jsonl", 3, "scores.x\ud800\n", "is wrong")
    assert str(problem) == "a.jsonl:3: scores.x\\ud800\\n: is wrong"


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n  \n{}\n")
    (problem,) = problems_of(path)
    assert problem.line == 4
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(ROW).encode())
    assert len(read_references([path], CATALOGUE).references) == 1


def test_an_id_stands_once_over_all_files_and_both_places_are_named(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", ROW | {"id": "b"}, ROW)
    second = write_rows(tmp_path / "b.jsonl", ROW)
    (problem,) = problems_of(first, second)
    assert str(problem) == f"{second}:1: id: 'a' is already the id of the row at {first}:2"


def test_the_first_twenty_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", *[{}] * 25)
    with pytest.raises(RowsError) as caught:
        read_references([path], CATALOGUE)
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 rows are wrong:"
    assert len(lines) == 22
    assert lines[-1] == "and 5 more"
    assert len(caught.value.problems) == 25
    assert isinstance(caught.value, ReferenceError_)


def test_wrong_rows_can_be_left_out_and_are_listed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ROW, ROW, "{", ROW | {"id": "z"})
    result = read_references([path], CATALOGUE, on_error="skip")
    assert [reference.id for reference in result.references] == ["a", "z"]
    assert [(problem.line, problem.field) for problem in result.skipped] == [(2, "id"), (3, "")]


def test_a_folder_stands_for_all_files_below_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_rows(tmp_path / "sub" / "a.jsonl", ROW | {"id": "3"})
    write_rows(tmp_path / "b.jsonl", ROW | {"id": "1"})
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROW | {"id": "2"}))
    write_rows(tmp_path / "models.toml", "not read")
    result = read_references([tmp_path, tmp_path / "b.jsonl"], CATALOGUE)
    assert [reference.id for reference in result.references] == ["1", "2", "3"]


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    csv = write_rows(tmp_path / "a.csv", "prompt")
    empty = write_rows(tmp_path / "a.jsonl", "")
    (tmp_path / "sub").mkdir()
    for path, message in [
        (tmp_path / "none.jsonl", "none.jsonl: does not exist"),
        (csv, "a.csv: references end in .jsonl or .jsonl.gz; waypost import converts others"),
        (tmp_path / "sub", "sub: no .jsonl or .jsonl.gz file in this folder"),
        (empty, "a.jsonl: no rows there"),
    ]:
        with pytest.raises(ReferenceError_, match=message):
            read_references([path], CATALOGUE)
    with pytest.raises(ReferenceError_, match="no file of references was given"):
        read_references([], CATALOGUE)


def test_a_damaged_file_is_an_error_even_where_rows_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = "".join(f"{json.dumps(ROW | {'id': str(number)})}\n" for number in range(9999))
    whole = gzip.compress(rows.encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReferenceError_, match=r"a\.jsonl\.gz: cannot be read after line \d+: "):
        read_references([path], CATALOGUE, on_error="skip")
    path.write_bytes(b"no gzip")
    with pytest.raises(ReferenceError_, match=r"a\.jsonl\.gz: cannot be read: Not a gzipped file"):
        read_references([path], CATALOGUE, on_error="skip")


def test_without_a_catalogue_names_stand_as_they_are() -> None:
    row = {"id": "a", "prompt": "p", "scores": {"any/model": 1}, "costs": {"other": 1}}
    reference = reference_from_row(row, None)
    assert (reference.scores, reference.costs) == ({"any/model": 1.0}, {"other": 1.0})
    assert reference_from_row(ROW | {"best_model": "x"}, None).best_model == "x"
    for name in ("", "\ud800", "a\nb", "x" * 257):
        with pytest.raises(RowError, match="1 to 256 bytes that can be printed"):
            reference_from_row(row | {"scores": {name: 1}}, None)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: not text.isspace()
)
prices = st.dictionaries(st.sampled_from(CATALOGUE.ids), st.floats(0, 1e6), max_size=2)
grades = st.dictionaries(st.sampled_from(CATALOGUE.ids), st.floats(0, 1), min_size=1)
asks = st.builds(Message, st.sampled_from(["user", "tool"]), texts)
talks = st.builds(lambda before, last: (*before, last), st.lists(st.builds(Message, texts, texts), max_size=2), asks)
turns = st.just(()) | talks


@st.composite
def any_references(draw: st.DrawFn) -> Reference:
    messages = draw(turns)
    scored = draw(st.booleans())
    return Reference(
        id=draw(texts),
        prompt=messages[-1].content if messages else draw(texts),
        best_model="" if scored else draw(st.sampled_from(CATALOGUE.ids)),
        scores=draw(grades) if scored else {},
        costs=draw(prices),
        messages=messages,
        category=draw(st.just("") | texts),
        source=draw(st.just("") | texts),
        note=draw(st.just("") | texts),
    )


@given(st.lists(any_references(), min_size=1, max_size=5, unique_by=lambda item: item.id))
def test_what_is_written_is_read_back_and_again_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, references: list[Reference]
) -> None:
    folder = tmp_path_factory.mktemp("written")
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert write_references(folder / name, references) == len(references)
        read = read_references([folder / name], CATALOGUE).references
        assert read == references
        write_references(folder / f"again-{name}", read)
        assert (folder / f"again-{name}").read_bytes() == (folder / name).read_bytes()
    assert len(list(folder.iterdir())) == 4


@given(any_references())
def test_a_row_has_no_keys_that_are_absent(reference: Reference) -> None:
    row = reference_to_row(reference)
    assert all(row.values())
    assert ("prompt" in row) != ("messages" in row)
    assert reference_from_row(row, CATALOGUE) == reference


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ROW)
    before = path.read_bytes()

    def failing() -> list[Reference]:
        raise ReferenceError_("no more")

    with pytest.raises(ReferenceError_, match="no more"):
        write_references(path, (item for item in failing()))
    with pytest.raises(UnicodeEncodeError):
        write_references(path, [Reference("a", "\ud800", "gpt-5")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ReferenceError_, match=r"b\.jsonl: cannot be written: No such file"):
        write_references(tmp_path / "none" / "b.jsonl", [])


def test_a_set_that_prefers_one_model_is_worth_a_warning() -> None:
    rows = [Reference(str(number), str(number), "gpt-5") for number in range(3)]
    assert warnings(rows) == ["no reference knows a model as good as gpt-5: nothing to route"]
    rows.append(Reference("3", "3", scores={"gpt-5": 0.5, "gpt-5-mini": 0.4}))
    assert len(warnings(rows)) == 1
    rows.append(Reference("4", "4", scores={"gpt-5": 0.5, "gpt-5-mini": 0.5}))
    assert warnings(rows) == [], "as good, and perhaps cheaper"
    assert warnings([]) == []


def test_scores_that_are_all_the_same_are_worth_a_warning() -> None:
    rows = [Reference(str(number), str(number), scores={"a": 0.5, "b": 0.5}) for number in range(3)]
    assert warnings(rows) == ["all scores are 0.5: they do not tell the models apart"]


def test_prompts_whose_labels_contradict_are_counted_with_examples() -> None:
    rows = [Reference(f"a{number}", f"Prompt {number}", "a") for number in range(5)]
    rows += [Reference(f"b{number}", f"Prompt {number} ", "b") for number in range(4)]
    rows.append(Reference("tie", "Prompt 4", scores={"a": 1.0, "b": 1.0}))
    (warning,) = warnings(rows)
    assert warning == (
        "4 prompts stand with labels that contradict each other: "
        "'Prompt 0' (a0, b0); 'Prompt 1' (a1, b1); 'Prompt 2' (a2, b2)"
    )


def test_the_same_last_turn_after_another_history_is_another_prompt() -> None:
    def after(first: str, model: str) -> Reference:
        messages = (Message("user", first), Message("user", "Go on."))
        return Reference(first, "Go on.", model, messages=messages)

    assert warnings([after("x", "a"), after("y", "b")]) == []


def test_the_starter_references_are_valid_with_the_catalogue_that_ships() -> None:
    folder = ROOT / "reference_prompts"
    catalogue = load_catalogue(folder / "models.toml")
    result = read_references([folder / "starter"], catalogue)
    assert {reference.best_model for reference in result.references} <= set(catalogue.ids)
