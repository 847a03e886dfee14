"""Conditions: what they look at, what they refuse, and that no text makes them slow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.expressions import VARIABLES, Condition, ExpressionError, context_of, split_and
from service.policy.facts import facts, has_code
from service.policy.language import language
from service.requests import Prompt, Request

REQUEST = Request("shop", "Write a short poem about the sea", attributes={"tier": "gold", "age": "7"})
PROMPT = Prompt(REQUEST.text, b"", turns=3, size=400)
CONTEXT = context_of(facts(REQUEST, PROMPT, VARIABLES))


@pytest.mark.parametrize(
    "source",
    [
        'attributes.tier == "gold"',
        'attributes["tier"] in ["gold", "silver"]',
        "int(attributes.age) < 8",
        "has(attributes.tier) && !has(attributes.region)",
        'attributes.region == "eu" || tokens == 100',
        'prompt.contains("poem")',
        'prompt.matches("(?i)\\\\bPOEM\\\\b")',
        "prompt.matches(r'(?i)\\bpoem\\b')",
        'matches(prompt, "sea$")',
        '["poem", "song"].exists(word, prompt.contains(word))',
        "tokens > 50 && turns == 3 && !has_code",
        'language == "en" && scope == "shop"',
        "attributes.exists(k, k == '18') || prompt != 'attributes.age == 18'",
        "tokens == 100.0 && turns in [3, 4]",
        'prompt.startsWith("Write") ? size(prompt) > 5 : false',
        '"matches(" != prompt',
        'prompt.matches(R"^Write\\b") && prompt.matches("\\u0073ea")',
        'tokens == 100 // a comment that says matches("("',
        " true\n",
    ],
)
def test_a_condition_that_holds(source: str) -> None:
    assert Condition(source).holds(CONTEXT)


@pytest.mark.parametrize(
    "source",
    [
        'attributes.region == "eu"',
        '!(attributes.region == "eu")',
        "int(attributes.tier) > 1",
        'prompt.matches("^poem")',
        "has_code",
        "tokens > 100",
        "prompt.matches(attributes.tier)",
        "prompt.matches(attributes.nothing)",
        "tokens + 9223372036854775807 > 0",
        "tokens / 0 == 1",
        "[1][tokens] == 1",
    ],
)
def test_a_condition_that_does_not_hold_or_cannot_be_evaluated(source: str) -> None:
    assert not Condition(source).holds(CONTEXT)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("tokens >", "does not compile"),
        ("", "does not compile"),
        ("(" * 3_000 + "true" + ")" * 3_000, "does not compile"),
        ("token > 1", "nothing is called 'token'; did you mean 'tokens'?"),
        ("task == 'chat'", "nothing is called 'task'; there are attributes, prompt"),
        ("prompt.contain('a')", "there is no function 'contain'; did you mean 'contains'?"),
        ("tokens > '5'", "values of different types"),
        ("attributes.age > 18", "write int(attributes.x)"),
        ("attributes.tier", "it gives 'text' where true or false is needed"),
        ("tokens", "it gives 100"),
        ("attributes.age == 18", "`attributes.age == 18` compares values of different types, which are never equal"),
        ("!(attributes['beta'] == true)", "never equal: attributes and prompt are texts"),
        ("attributes.age in [17, 18] || has_code", "`attributes.age in [17, 18]` compares"),
        ("has_code && tokens == '5'", "`tokens == '5'` compares"),
        ("has_code == 'true'", "`has_code == 'true'` compares"),
        ("max(tokens, 5) > 7", "there is no function 'max'"),
        ("contains(prompt, 'a')", "contains(…) cannot be called with this"),
        ("prompt.startsWith()", "startsWith(…) cannot be called with this"),
        ("prompt.matches('(')", "regular expression '('"),
        (r"prompt.matches(r'(a)\1')", "no look-around and no back-references"),
        ("tokens > 1 || prompt.matches('[')", "regular expression '['"),
    ],
)
def test_a_condition_that_cannot_be_used_says_why(source: str, why: str) -> None:
    with pytest.raises(ExpressionError) as error:
        Condition(source)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pattern_that_would_take_for_ever_elsewhere_is_linear_here() -> None:
    condition = Condition("prompt.matches('(x+x+)+y')")
    assert not condition.holds(context_of({"prompt": "x" * 200_000}))


def test_only_the_facts_that_are_named_are_asked_for() -> None:
    assert Condition("tokens > 1 && ['a'].exists(k, prompt == k)").variables == {"tokens", "prompt"}
    assert Condition("1 < 2").constant is True
    assert Condition("1 > 2").constant is False
    assert Condition("turns > 2").constant is None


@given(st.text(max_size=300), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_any_text_can_be_looked_at(text: str, attributes: dict[str, str]) -> None:
    asked = Request("s", text, attributes=attributes)
    context = context_of(facts(asked, Prompt(text, b"", size=len(text)), VARIABLES))
    assert Condition("size(prompt) >= 0 && tokens >= 0 && size(language) >= 2").holds(context)
    assert Condition("prompt.matches('(?s)^.*$')").holds(context)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("a && b", ["a", "b"]),
        ("a && (b && c)", ["a", "(b && c)"]),
        ("a && b || c", ["a && b || c"]),
        ('prompt == " && " && b', ['prompt == " && "', "b"]),
        ("x ? a : b && c", ["x ? a : b && c"]),
    ],
)
def test_a_condition_is_split_where_all_must_hold(source: str, parts: list[str]) -> None:
    assert split_and(source) == parts


@pytest.mark.parametrize(
    "text",
    [
        "Why does this fail?\n```\nx = 1\n```",
        "fix: def add(a, b):\ndef add(a, b):\n    return a",
        "#include <stdio.h>",
        "public static void main(String[] args) {",
        "SELECT name FROM users WHERE id = 3",
        "const x = (a) => a + 1",
        "<div class='x'>hello</div>",
        "for (int i = 0; i < n; i++) {",
        'console.log("x");',
    ],
)
def test_code_is_seen(text: str) -> None:
    assert has_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Write a function that adds two numbers",
        "What is the class of a whale?",
        "import duties on cars, from Japan",
        "Let x be a number; show that x < y",
        "I selected this from the menu :)",
        "let us go",
        "What is the static pressure in a fan",
    ],
)
def test_prose_is_not_code(text: str) -> None:
    assert not has_code(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Write a short poem about the sea", "en"),
        ("Schreibe ein kurzes Gedicht über das Meer", "de"),
        ("¿Dónde está la biblioteca más cercana?", "es"),
        ("Écris un petit poème sur la mer", "fr"),
        ("海についての短い詩を書いてください", "ja"),
        ("Hello", "und"),
        ("12345", "und"),
        ("", "und"),
    ],
)
def test_a_language_is_told_where_the_text_is_long_enough(text: str, code: str) -> None:
    assert language(text) == code
