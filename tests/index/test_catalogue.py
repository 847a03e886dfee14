"""The catalogue: what a file may hold, and how all that is wrong with one is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.catalogue import CatalogueFileError, did_you_mean, load_catalogue, parse_catalogue
from index.errors import CatalogueError

ROOT = Path(__file__).parents[2]
MODEL = """
[[models]]
id = "gpt-5"
input_usd_per_mtok = 1.25
output_usd_per_mtok = 10
context_window = 400_000
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(CatalogueFileError) as caught:
        parse_catalogue(text, "models.toml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert isinstance(caught.value, CatalogueError)
    return caught.value.problems


def with_line(line: str) -> str:
    key = line.partition(" =")[0]
    kept = [old for old in MODEL.splitlines() if not old.startswith(f"{key} =")]
    return "\n".join([*kept, line])


def test_a_model_has_what_its_table_says() -> None:
    catalogue = parse_catalogue(
        'fallback = "big"\n' + MODEL + 'tier = "large"\nlatency_ms = 900\ntokens_per_s = 50.5\n'
        'capabilities = ["tools", "json"]\nkind = "agent"\naliases = ["big", "best"]\n',
        "models.toml",
    )
    (model,) = catalogue.models
    assert (model.id, model.tier, model.kind, model.aliases) == (
        "gpt-5",
        "large",
        "agent",
        ("big", "best"),
    )
    assert (model.input_usd_per_mtok, model.output_usd_per_mtok) == (1.25, 10.0)
    assert (model.context_window, model.latency_ms, model.tokens_per_s) == (400_000, 900.0, 50.5)
    assert model.capabilities == {"tools", "json"}
    assert catalogue.fallback == "gpt-5"
    assert catalogue.ids == ("gpt-5",)


def test_what_is_optional_may_be_absent() -> None:
    catalogue = parse_catalogue(MODEL, "models.toml")
    (model,) = catalogue.models
    assert (model.tier, model.latency_ms, model.tokens_per_s) == ("", None, None)
    assert (model.kind, model.aliases, model.capabilities) == ("model", (), frozenset())
    assert catalogue.fallback is None
    assert catalogue.text == MODEL


def test_a_model_is_found_by_id_and_by_alias() -> None:
    catalogue = parse_catalogue(MODEL + 'aliases = ["big"]', "models.toml")
    assert catalogue.get("big") is catalogue.get("gpt-5")
    assert catalogue.resolve("big") == "gpt-5"
    assert catalogue.resolve("Big") is None
    assert "big" in catalogue
    assert "small" not in catalogue


def test_an_unknown_model_is_named_with_the_closest_known_one() -> None:
    catalogue = parse_catalogue(MODEL, "models.toml")
    with pytest.raises(CatalogueError, match=r"no model 'GPT5'; did you mean 'gpt-5'\?"):
        catalogue.get("GPT5")
    with pytest.raises(CatalogueError, match=r"no model 'llama'$"):
        catalogue.get("llama")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("input_usd_per_mtok = -1", "input_usd_per_mtok: must be a number of at least 0, not -1"),
        ("input_usd_per_mtok = nan", "input_usd_per_mtok: must be a number of at least 0, not nan"),
        (
            "output_usd_per_mtok = inf",
            "output_usd_per_mtok: must be a number of at least 0, not inf",
        ),
        (
            "input_usd_per_mtok = true",
            "input_usd_per_mtok: must be a number of at least 0, not true",
        ),
        ('input_usd_per_mtok = "1"', "input_usd_per_mtok: must be a number of at least 0, not '1'"),
        ("context_window = 0", "context_window: must be a whole number of tokens above 0, not 0"),
        ("context_window = 1e5", "context_window: must be a whole number of tokens above 0"),
        (
            "context_window = true",
            "context_window: must be a whole number of tokens above 0, not true",
        ),
        ("tier = 3", "tier: must be text of 1 to 256 bytes"),
        ("latency_ms = -5", "latency_ms: must be a number of at least 0, not -5"),
        ("latency_ms = 1e300", "latency_ms: must be a number of at most 1,000,000,000, not 1e+300"),
        ("tokens_per_s = 1e-300", "tokens_per_s: must be a number of at least 0.001, not 1e-300"),
        ("tokens_per_s = 0", "tokens_per_s: must be a number above 0, not 0"),
        ('kind = "robot"', "kind: must be one of model, tool, agent, not 'robot'"),
        ('capabilities = "tools"', 'capabilities: must be a list of names, such as ["a", "b"]'),
        ("aliases = [1]", "aliases: must be text of 1 to 256 bytes"),
        ('aliases = [" x"]', "aliases: must be text of 1 to 256 bytes without space around it"),
    ],
)
def test_a_wrong_value_is_named_by_file_model_and_field(line: str, problem: str) -> None:
    (found,) = problems_of(with_line(line))
    assert found.startswith(f"models.toml: model 1 (gpt-5): {problem}")


def test_a_wrong_id_is_named_by_the_number_of_the_model() -> None:
    (found,) = problems_of(with_line("id = 5"))
    assert found.startswith("models.toml: model 1: id: must be text of 1 to 256 bytes")
    (found,) = problems_of(with_line('id = ""'))
    assert "id: must be text" in found


def test_every_missing_field_is_named_with_what_to_do() -> None:
    found = problems_of('[[models]]\ntier = "small"')
    assert [line.split(":")[2].strip() for line in found] == [
        "id",
        "input_usd_per_mtok",
        "output_usd_per_mtok",
        "context_window",
    ]
    assert all("is missing; give the " in line for line in found)


def test_all_problems_of_all_models_are_told_at_once() -> None:
    second = MODEL.replace("1.25", "-1").replace("gpt-5", "gpt-6") + 'colour = "red"'
    found = problems_of(f'fallback = "gpt-9"\nowner = "me"\n{MODEL}kind = "x"\n{second}')
    assert len(found) == 5
    assert found[0].startswith("models.toml: owner: is not a key")
    assert found[1].startswith("models.toml: model 1 (gpt-5): kind")
    assert found[2].startswith("models.toml: model 2 (gpt-6): colour: is not a key")
    assert found[3].startswith("models.toml: model 2 (gpt-6): input_usd_per_mtok")
    assert found[4].startswith("models.toml: fallback: no model is called 'gpt-9'; did you mean")


def test_a_misspelt_key_gets_a_hint() -> None:
    (found,) = problems_of(MODEL + "latency = 3")
    assert found == ("models.toml: model 1 (gpt-5): latency: is not a key of the catalogue; did you mean 'latency_ms'?")


def test_a_fallback_may_be_a_model_with_problems_of_its_own() -> None:
    (found,) = problems_of('fallback = "gpt-5"\n' + with_line("kind = 1"))
    assert "kind" in found


@pytest.mark.parametrize("value", ["3", "true", "[]"])
def test_a_fallback_that_is_no_name_is_told(value: str) -> None:
    (found,) = problems_of(f"fallback = {value}\n{MODEL}")
    assert found.startswith("models.toml: fallback: no model is called ")


def test_a_name_stands_for_one_model_only() -> None:
    other = MODEL.replace("gpt-5", "other")
    (found,) = problems_of(MODEL + MODEL)
    assert found == (
        "models.toml: model 2 (gpt-5): id: 'gpt-5' is already a name of model 1 (gpt-5); "
        "a name may stand for one model only"
    )
    (found,) = problems_of(MODEL + other + 'aliases = ["gpt-5"]')
    assert found.startswith("models.toml: model 2 (other): aliases: 'gpt-5' is already a name")
    (found,) = problems_of(MODEL + 'aliases = ["gpt-5"]')
    assert found.startswith("models.toml: model 1 (gpt-5): aliases: 'gpt-5' is already a name")


@pytest.mark.parametrize("text", ["", "# nothing\n", "models = []"])
def test_an_empty_catalogue_is_an_error(text: str) -> None:
    assert problems_of(text) == ["models.toml: models: the catalogue is empty; describe each model under [[models]]"]


@pytest.mark.parametrize("text", [MODEL.replace("[[models]]", "[models]"), "models = [1]"])
def test_models_in_single_brackets_are_explained(text: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith("models.toml: models: must be tables; head each with [[models]]")


@pytest.mark.parametrize("value", ["[" * 5_000, "1" * 5_000], ids=["too deep", "too long"])
def test_toml_that_python_cannot_take_is_refused(value: str) -> None:
    (found,) = problems_of(f"models = {value}")
    assert found.startswith("models.toml: is not valid TOML: ")


def test_what_is_not_toml_is_told_with_its_place() -> None:
    (found,) = problems_of("[[models]]\nid = gpt-5\n")
    assert found.startswith("models.toml: is not valid TOML: ")
    assert "line 2" in found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist; write one, or start from reference_prompts/models.toml"),
        (b'# ok\nid = "\xe9"', "line 2 is not UTF-8 (invalid continuation byte)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "models.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogueFileError) as caught:
        load_catalogue(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError) as caught:
        load_catalogue(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: is a folder; give the file")


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MODEL.encode())
    assert load_catalogue(path).ids == ("gpt-5",)


def test_the_catalogue_that_ships_has_one_model_for_each_tier_of_the_starter_references() -> None:
    catalogue = load_catalogue(ROOT / "reference_prompts" / "models.toml")
    tiers = [catalogue.get(tier).tier for tier in ("small", "medium", "large")]
    assert tiers == ["small", "medium", "large"]
    assert catalogue.fallback == catalogue.resolve("medium")
    costs = [catalogue.get(tier).cost_usd(1000, 500) for tier in tiers]
    assert costs == sorted(costs)


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=5))
def test_a_hint_is_empty_or_names_something_known(name: str, known: list[str]) -> None:
    hint = did_you_mean(name, known)
    assert hint == "" or any(hint == f"; did you mean {item!r}?" for item in known)


@given(st.text(max_size=200))
def test_any_text_is_a_catalogue_or_a_catalogue_error(text: str) -> None:
    try:
        parse_catalogue(text, "models.toml")
    except CatalogueFileError as error:
        assert error.problems  # noqa: PT017 - either outcome is right, nothing else is
