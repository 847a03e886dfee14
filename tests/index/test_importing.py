"""Importing: each layout becomes the references it stands for, and each fault is named."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.catalogue import Catalogue
from index.errors import ReferenceError_
from index.importing import ImportReport, import_rows
from index.records import Message, Model, Reference
from index.references import RowsError, parse_line, reference_from_row, source_lines

ROOT = Path(__file__).parents[2]
DATA = ROOT / ".." / "shared" / "data" / "routing"
CATALOGUE = Catalogue(
    (
        Model("gpt-5", 1.0, 8.0, 400_000, aliases=("large",)),
        Model("gpt-5-mini", 0.2, 2.0, 400_000, aliases=("small",)),
    )
)
JUDGED = {"prompt": "Hi", "source": ["chat", "x"], "gpt4_response": "a", "mixtral_response": "b"}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_rows(path: Path, *rows: object) -> Path:
    return write(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def table(*rows: Sequence[object], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def run(
    source: Path,
    layout: str = "auto",
    **options: Any,
) -> tuple[ImportReport, list[Reference]]:
    output = source.with_name("references.jsonl")
    report = import_rows([source], layout, output, overwrite=True, **options)
    rows = [parse_line(raw) for _, raw in source_lines(output)]
    return report, [reference_from_row(row, None) for row in rows]


def problems_of(source: Path, layout: str = "auto", **options: Any) -> list[str]:
    with pytest.raises(RowsError) as caught:
        run(source, layout, **options)
    assert not source.with_name("references.jsonl").exists()
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_labels_are_read_from_tables(tmp_path: Path, name: str) -> None:
    rows = [["id", "prompt", "best_model", "category"], ["1", 'Say "x",\n\nthen y.', "large", ""]]
    text = table(*rows, delimiter="\t" if ".tsv" in name else ",")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    report, references = run(path, catalogue=CATALOGUE)
    assert report.layout == "labels"
    assert references == [Reference("1", 'Say "x",\n\nthen y.', "gpt-5")]


@pytest.mark.parametrize("header", ["prompt, best_model", "prompt, model, quality"])
def test_white_space_after_a_comma_is_no_part_of_a_models_name(tmp_path: Path, header: str) -> None:
    source = write(tmp_path / "a.csv", f"{header}\nWhere is it?, small{', 1' * header.endswith('quality')}\n")
    (found,) = run(source)[1]
    assert (found.best_model or [*found.scores]) in ("small", ["small"])


def test_labels_are_read_from_json_lines(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Why?"}]
    path = write_rows(
        tmp_path / "a.jsonl",
        {"id": 7, "prompt": "p", "best_model": "m", "note": "n"},
        {"messages": messages, "best_model": "m"},
    )
    report, (first, second) = run(path)
    assert (report.read, report.written) == (2, 2)
    assert first == Reference("7", "p", "m", note="n")
    assert second.messages == (Message("user", "Hi"), Message("user", "Why?"))


def test_score_columns_become_scores_and_empty_cells_are_holes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        table(
            ["prompt", "score:large", "score:small", "cost:large", "cost:small", "judge"],
            ["p", "0.25", "", "1e-3", "", "me"],
            ["q", "True", "false", "", " 0 ", ""],
        ),
    )
    report, (first, second) = run(path, catalogue=CATALOGUE)
    assert report.layout == "scores"
    assert report.unused == ("judge",)
    assert (first.scores, first.costs) == ({"gpt-5": 0.25}, {"gpt-5": 0.001})
    assert second.scores == {"gpt-5": 1.0, "gpt-5-mini": 0.0}
    assert second.costs == {"gpt-5-mini": 0.0}


def test_score_objects_are_read_with_query_as_prompt_and_dataset_as_source(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        {
            "id": "x",
            "prompt": "examples, then: q",
            "query": "q",
            "dataset": "arc",
            "scores": {"large": 1, "small": None},
            "costs": {"large": 0.5, "small": None},
        },
    )
    _, (reference,) = run(path, catalogue=CATALOGUE)
    assert reference == Reference("x", "q", "", {"gpt-5": 1.0}, {"gpt-5": 0.5}, source="arc")


@pytest.mark.parametrize("prompt", ["['Is it?']", "['Is', 'it?']", "Is it?", "['Is it?' no"])
def test_routerbench_becomes_scores_and_costs(tmp_path: Path, prompt: str) -> None:
    header = ["", "sample_id", "prompt", "eval_name", "a/m", "b", "a/m|model_response"]
    header += ["b|model_response", "a/m|total_cost", "b|total_cost", "oracle_model_to_route_to"]
    row = ["0", "arc.1", prompt, "arc", "0.0", "1.0", "No", "Yes", "0.001", "0.002", "b"]
    report, (reference,) = run(write(tmp_path / "a.csv", table(header, row)))
    assert report.layout == "routerbench"
    assert report.unused == ()
    assert reference.prompt == {"['Is it?']": "Is it?", "['Is', 'it?']": "Is\nit?"}.get(prompt, prompt)
    assert (reference.id, reference.category, reference.source) == ("arc.1", "arc", "routerbench")
    assert reference.scores == {"a/m": 0.0, "b": 1.0}
    assert reference.costs == {"a/m": 0.001, "b": 0.002}


def test_routerbench_as_json_lines_may_hold_lists(tmp_path: Path) -> None:
    row = {"sample_id": "x", "prompt": ["a", "b"], "m": 0.5, "m|total_cost": None}
    report, (reference,) = run(write_rows(tmp_path / "a.jsonl", row))
    assert report.layout == "routerbench"
    assert (reference.prompt, reference.scores, reference.costs) == ("a\nb", {"m": 0.5}, {})


def test_routellms_tables_of_flags_become_scores(tmp_path: Path) -> None:
    models = ["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"]
    header = ["prompt", *models, *(f"{model}_response" for model in models)]
    path = write(tmp_path / "mmlu_anatomy.csv", table(header, ["Which bone?", "False", "True", "x", "y"]))
    report, (reference,) = run(path)
    assert report.layout == "routellm"
    assert report.unused == ()
    assert reference.scores == {models[0]: 0.0, models[1]: 1.0}
    assert (reference.category, reference.source) == ("anatomy", "routellm")


def test_routellms_judged_set_rates_the_weak_model_against_the_strong(tmp_path: Path) -> None:
    rows = [JUDGED | {"mixtral_score": score} for score in (1, 4, 5)]
    report, references = run(write_rows(tmp_path / "a.jsonl", *rows))
    assert report.layout == "routellm"
    assert report.unused == ()
    weak = [item.scores["mistralai/Mixtral-8x7B-Instruct-v0.1"] for item in references]
    assert weak == [0.0, 0.75, 1.0]
    assert {item.scores["gpt-4-1106-preview"] for item in references} == {1.0}
    assert references[0].source == "chat, x"


def test_a_judgement_off_the_scale_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", JUDGED | {"mixtral_score": 6})
    assert problems_of(path) == [f"{path}:1: mixtral_score: must be from 1 to 5, not 6; give the scale it is on"]


def test_calls_of_a_log_are_grouped_by_prompt_and_averaged(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        table(
            ["id", "prompt", "model", "quality", "cost", "user"],
            ["1", "p", "large", "1", "0.2", "u"],
            ["2", "q", "small", "0.5", "", "u"],
            ["3", "p  ", "gpt-5", "0", "0.4", "u"],
            ["4", "p", "small", "true", "", "u"],
        ),
    )
    report, (first, second) = run(path, catalogue=CATALOGUE)
    assert (report.layout, report.read, report.written, report.averaged) == ("log", 4, 2, 1)
    assert report.unused == ("user",)
    assert first.scores == {"gpt-5": 0.5, "gpt-5-mini": 1.0}
    assert first.costs == {"gpt-5": pytest.approx(0.3)}
    assert first.note == "averaged over 3 calls"
    assert (second.prompt, second.scores, second.note) == ("q", {"gpt-5-mini": 0.5}, "")


def test_columns_of_other_names_are_given_by_role(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        table(["prompt", "question", "gpt5 ok", "mini ok"], ["few-shot", "q", "1", "0"]),
    )
    columns = {"prompt": "question", "score:gpt-5": "gpt5 ok", "score:small": "mini ok"}
    report, (reference,) = run(path, catalogue=CATALOGUE, columns=columns)
    assert report.layout == "scores"
    assert (reference.prompt, reference.scores) == ("q", {"gpt-5": 1.0, "gpt-5-mini": 0.0})
    columns["score:gpt-5"] = "gpt5_ok"
    with pytest.raises(ReferenceError_, match="no column 'gpt5_ok' for score:gpt-5; did you mean"):
        run(path, columns=columns)


def test_a_fault_names_the_column_as_the_file_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", table(["question", "winner"], ["q", "gpt-6"], ["", "gpt-5"]))
    columns = {"prompt": "question", "best_model": "winner"}
    assert problems_of(path, catalogue=CATALOGUE, columns=columns) == [
        f"{path}:2: winner: the catalogue has no model 'gpt-6'; did you mean 'gpt-5'?",
        f"{path}:3: question: is missing",
    ]


def test_ids_come_from_the_prompt_and_stay_the_same(tmp_path: Path) -> None:
    rows = [["prompt", "best_model"], ["p", "m"], ["q", "m"], ["p ", "n"]]
    path = write(tmp_path / "a.csv", table(*rows))
    _, references = run(path)
    ids = [reference.id for reference in references]
    assert len(set(ids)) == 3
    assert ids[2] == f"{ids[0]}-2"
    rows[1:2] = []
    _, again = run(write(tmp_path / "b.csv", table(*rows)))
    assert [reference.id for reference in again] == [ids[1], ids[0]]


def test_an_id_that_stands_twice_is_named_with_both_places(tmp_path: Path) -> None:
    rows = [["id", "prompt", "best_model"], ["x", "p\nq", "m"], ["x", "r", "m"]]
    path = write(tmp_path / "a.csv", table(*rows))
    assert problems_of(path) == [f"{path}:4: id: 'x' is already the id of the row at {path}:2"]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("1.5", "must be from 0 to 1, not 1.5; give the scale it is on"),
        ("-0.5", "must be from 0 to 1, not -0.5; give the scale it is on"),
        ("1e999", "must be from 0 to 1, not inf; give the scale it is on"),
        ("0,5", "must be a number such as 0.5, not '0,5'"),
        ("nan", "must be a number such as 0.5, not 'nan'"),
        ("1_0", "must be a number such as 0.5, not '1_0'"),
        ("90%", "must be a number such as 0.5, not '90%'"),
        ("٣", "must be a number such as 0.5, not '٣'"),
    ],
)
def test_a_cell_that_is_no_score_is_named(tmp_path: Path, cell: str, problem: str) -> None:
    rows = [["prompt", "score:a"], ["p", "1"], ["q", cell]]
    path = write(tmp_path / "a.csv", table(*rows))
    assert problems_of(path) == [f"{path}:3: score:a: {problem}"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "p", "scores": {"a": True, "b": "x"}}, "scores.b: must be a number such as"),
        ({"prompt": "p", "scores": {"a": 10**400}}, "scores.a: must be from 0 to 1, not inf"),
        ({"prompt": "p", "scores": {}}, "scores: are all absent from this row"),
        ({"prompt": "p", "scores": [1]}, "scores: must be an object of models and numbers"),
        ({"prompt": "p", "scores": {"a": 1}, "score:a": 0}, "score:a: holds 'a' a second time"),
        ({"prompt": "p", "scores": {"a": 1}, "costs": {"a": -1}}, "costs.a: must be USD from 0 to"),
        ({"prompt": "p", "scores": {"a": 1}, "costs": {"a": True}}, "costs.a: must be a number"),
        ({"prompt": "p", "scores": {"\ud800": 1}}, "scores.\\ud800: a model's name has 1 to 256"),
        ({"prompt": "p", "scores": {"a": 1}, "category": 3}, "category: must be text"),
        ({"scores": {"a": 1}}, "prompt: is missing"),
        ([1], "must be a JSON object"),
    ],
)
def test_a_wrong_json_row_is_named(tmp_path: Path, row: object, problem: str) -> None:
    sound = {"prompt": "sound", "scores": {"a": 1}}
    path = write_rows(tmp_path / "a.jsonl", sound, row)
    (found,) = problems_of(path)
    assert found.startswith(f"{path}:2: {problem}")


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["", "large", "1", ""], "prompt: is missing"),
        (["p", "", "1", ""], "model: is missing"),
        (["p", "llama", "1", ""], "model: the catalogue has no model 'llama'"),
        (["p", "large", "", ""], "quality: is missing"),
        (["p", "large", "2", ""], "quality: must be from 0 to 1, not 2"),
        (["p", "large", "1", "-1"], "cost: must be USD from 0 to 1,000,000, not -1"),
    ],
)
def test_a_wrong_call_is_named(tmp_path: Path, cells: list[object], problem: str) -> None:
    header: list[object] = ["prompt", "model", "quality", "cost"]
    path = write(tmp_path / "a.csv", table(header, ["p", "large", "1", "1"], cells))
    (found,) = problems_of(path, catalogue=CATALOGUE)
    assert found.startswith(f"{path}:3: {problem}")


def test_a_scale_maps_scores_to_0_and_1_but_not_flags(tmp_path: Path) -> None:
    rows = [["prompt", "score:a", "score:b"], ["p", "1", "5"], ["q", "3", "true"]]
    path = write(tmp_path / "a.csv", table(*rows))
    _, references = run(path, scale=(1, 5))
    assert [item.scores for item in references] == [{"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 1.0}]


def test_wrong_rows_can_be_left_out_and_are_listed(tmp_path: Path) -> None:
    text = 'prompt,best_model\np,m\n"a"b,m\nonly one\n\nq,m\n"never closed,m\n'
    path = write(tmp_path / "a.csv", text)
    report, references = run(path, on_error="skip")
    assert [reference.prompt for reference in references] == ["p", "q"]
    assert [(problem.line, problem.message) for problem in report.skipped] == [
        (3, "is not valid CSV: ',' expected after '\"'"),
        (4, "has 1 cells where the header has 2"),
        (7, "is not valid CSV: unexpected end of data"),
    ]
    assert (report.read, report.written) == (5, 2)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,best_model\ncaf\xe9,m\n")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:2: prompt: is not sound Unicode: a byte that is not UTF-8")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_file_of_utf_16_is_told_what_it_is(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes("\ufeffprompt,best_model\np,m\n".encode(encoding))
    with pytest.raises(ReferenceError_, match=f"{name}: is UTF-16; save it as UTF-8"):
        run(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_gzipped_file_of_another_name_is_told_what_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"prompt,best_model\np,m\n"))
    with pytest.raises(ReferenceError_, match=rf"{name}: is gzipped; unpack it, or name it {name}\.gz"):
        run(tmp_path / name)


def test_nothing_is_written_if_no_row_is_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt,best_model\n,m\n")
    assert problems_of(path, on_error="skip") == [f"{path}:2: prompt: is missing"]
    path = write(tmp_path / "b.jsonl", "{\n[]\n")
    assert [item.partition(": ")[2][:6] for item in problems_of(path)] == ["is not", "must b"]
    for name in ("c.csv", "c.jsonl"):
        with pytest.raises(ReferenceError_, match=f"no rows in .*{name}"):
            run(write(tmp_path / name, ""))
    assert not (tmp_path / "references.jsonl").exists()


def test_an_output_that_exists_stays_unless_told_otherwise(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "prompt,best_model\np,m\n")
    output = write(tmp_path / "b.jsonl", "mine")
    with pytest.raises(ReferenceError_, match=r"b\.jsonl: exists already; give another name"):
        import_rows([source], "auto", output)
    assert output.read_text() == "mine"
    broken = write(tmp_path / "c.csv", "prompt,best_model\n,m\n")
    with pytest.raises(RowsError):
        import_rows([broken], "auto", output, overwrite=True)
    assert output.read_text() == "mine"
    import_rows([source], "auto", output, overwrite=True)
    assert json.loads(output.read_text())["prompt"] == "p"
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "b.jsonl", "c.csv"}


def test_several_files_become_one_and_must_have_one_layout(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "prompt,best_model\np,m\n")
    second = write_rows(tmp_path / "b.jsonl", {"prompt": "q", "best_model": "m"})
    report = import_rows([first, second], "auto", tmp_path / "o.jsonl.gz")
    assert (report.layout, report.written) == ("labels", 2)
    third = write_rows(tmp_path / "c.jsonl", {"prompt": "q", "scores": {"m": 1}})
    with pytest.raises(ReferenceError_, match=r"c\.jsonl: layout 'labels' does not fit its col"):
        import_rows([first, third], "auto", tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer\nq,a\n", "no layout fits its columns: question, answer; the"),
        (
            "a.csv",
            "prompt;best_model\nq;a\n",
            "no layout fits: its one column is 'prompt;best_model'; save it with commas",
        ),
        ("a.csv", "prompt,best_model,best_model\n", "1: has two columns called 'best_model'"),
        ("a.csv", '"a"b\n', "1: is not valid CSV"),
        ("a.pkl", "", "is a pickle, which can run code when it is read"),
        ("a.parquet", "", "is Parquet; convert it once"),
        ("a.json", "[]", "is one JSON document; write an object a line"),
        ("a.txt", "", r"must end in \.jsonl, \.csv or \.tsv"),
        ("none.csv", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(ReferenceError_, match=f"{name}:.*{message}"):
        run(tmp_path / name)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ReferenceError_, match="is a folder; give the files in it"):
        import_rows([tmp_path], "auto", tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("layout", "output", "options", "message"),
    [
        ("label", "o.jsonl", {}, "layout 'label' is not known; it is one of auto, labels, scores"),
        ("auto", "o.csv", {}, r"o\.csv: must end in \.jsonl or \.jsonl\.gz to be read later"),
        ("auto", "o.jsonl", {"columns": {"promt": "x"}}, "'promt' is not known; did you mean"),
        ("auto", "o.jsonl", {"scale": (5, 1)}, "scale 5 to 1 must rise and be finite"),
        ("auto", "o.jsonl", {"scale": (-1e308, 1e308)}, r"scale -1e\+308 to 1e\+308 must rise and be finite"),
        ("scores", "o.jsonl", {}, "layout 'scores' does not fit its columns: prompt, best_model"),
    ],
)
def test_a_wrong_option_says_what_is_right(
    tmp_path: Path, layout: str, output: str, options: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "a.csv", "prompt,best_model\np,m\n")
    with pytest.raises(ReferenceError_, match=message):
        import_rows([source], layout, tmp_path / output, **options)
    with pytest.raises(ReferenceError_, match="no file to import was given"):
        import_rows([], "auto", tmp_path / "o.jsonl")


def test_progress_counts_the_rows_read(tmp_path: Path) -> None:
    rows = [{"prompt": str(number), "best_model": "m"} for number in range(2500)]
    seen: list[int] = []
    report, _ = run(write_rows(tmp_path / "a.jsonl", *rows), progress=seen.append)
    assert seen == [1000, 2000, 2500]
    assert report.written == 2500


prompts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


@given(
    st.lists(st.tuples(prompts, st.floats(0, 1), st.none() | st.floats(0, 1e6)), min_size=1),
    st.sampled_from(["csv", "tsv"]),
)
def test_any_text_and_number_survives_a_table(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, float, float | None]],
    kind: Literal["csv", "tsv"],
) -> None:
    path = tmp_path_factory.mktemp("table") / f"a.{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerow(["prompt", "score:m", "cost:m"])
        writer.writerows(rows)
    _, references = run(path)
    assert [(item.prompt, item.scores["m"], item.costs.get("m")) for item in references] == rows


@pytest.mark.parametrize(
    ("name", "count"),
    [("routellm_mmlu", 7193), ("routellm_gsm8k_answers", 701), ("routerbench_winogrande", 887)],
)
def test_sets_with_scores_and_costs_are_imported_whole(tmp_path: Path, name: str, count: int) -> None:
    source = DATA / f"{name}.jsonl.gz"
    if not source.exists():
        pytest.skip("the measuring data is not here")
    report = import_rows([source], "auto", tmp_path / "o.jsonl")
    assert (report.layout, report.read, report.written) == ("scores", count, count)
    first = parse_line(next(source_lines(tmp_path / "o.jsonl"))[1])
    given_row = parse_line(next(source_lines(source))[1])
    assert isinstance(first, dict)
    assert isinstance(given_row, dict)
    assert first["prompt"] == given_row.get("query", given_row["prompt"])
    assert first["source"] == given_row["dataset"]
    assert first["scores"] == given_row["scores"]
