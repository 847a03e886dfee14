"""Rules: what matches, what they add up to, and everything that can be wrong with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.never import contradiction
from service.requests import CacheMode, CacheOptions, RouteOptions
from tests.policy.kit import CATALOGUE, compiled, problems, request, ruled

GOLD = """
[[rules]]
name = "gold"
when = 'attributes.tier == "gold"'
min_tier = "medium"
"""


def left(route: RouteOptions) -> set[str]:
    return {model for model in CATALOGUE.ids if route.admits(model)}


def test_a_rule_that_matches_limits_the_models_and_is_named() -> None:
    asked, names = ruled(GOLD, request(attributes={"tier": "gold"}))
    assert left(asked.route) == {"medium-1", "large-1"}
    assert asked.route.limits[0][0] == "rule 'gold' (min_tier medium)"
    assert names == "gold"


def test_a_request_without_attributes_can_be_looked_at() -> None:
    text = GOLD.replace('attributes.tier == "gold"', "!has(attributes.tier) && size(attributes) == 0")
    assert ruled(text, request())[1] == "gold"


def test_a_rule_that_does_not_match_changes_nothing() -> None:
    plain = request(attributes={"tier": "silver"})
    assert ruled(GOLD, plain) == (plain, "")


def test_limits_of_all_rules_and_of_the_request_add_up() -> None:
    text = """
    [[rules]]
    name = "a"
    deny = ["small"]
    max_cost_usd = 0.5
    min_quality = 0.2
    [[rules]]
    name = "b"
    when = "turns >= 1"
    require = ["tools"]
    max_cost_usd = 0.1
    max_latency_s = 5
    min_quality = 0.1
    """
    route = RouteOptions(deny=frozenset({"large-1"}), max_cost_usd=0.3, max_latency_s=2.0)
    asked, names = ruled(text, request(route=route))
    assert names == "a, b"
    assert left(asked.route) == {"medium-1"}
    assert (asked.route.max_cost_usd, asked.route.max_latency_s, asked.route.min_quality) == (0.1, 2.0, 0.2)


def test_of_weights_and_pins_the_first_rule_holds_and_a_pin_overrides_the_request() -> None:
    text = """
    [[rules]]
    name = "critical"
    when = 'attributes.flow == "checkout"'
    pin = "large"
    willingness_to_pay = 5
    [[rules]]
    name = "rest"
    pin = "small"
    willingness_to_pay = 1
    latency_weight = 0.1
    """
    asked, _ = ruled(text, request(attributes={"flow": "checkout"}, route=RouteOptions(pin="medium-1")))
    assert (asked.route.pin, asked.route.willingness_to_pay, asked.route.latency_weight) == ("large-1", 5, 0.1)
    own, _ = ruled(text, request(route=RouteOptions(willingness_to_pay=7)))
    assert (own.route.pin, own.route.willingness_to_pay) == ("small-1", 7)


def test_a_rule_that_stops_ends_the_list() -> None:
    text = """
    [[rules]]
    name = "internal"
    when = 'scope == "internal"'
    stop = true
    [[rules]]
    name = "rest"
    deny = ["large"]
    """
    assert ruled(text, request(scope="internal"))[1] == "internal"
    assert ruled(text, request())[1] == "rest"


MODES = [CacheMode.DEFAULT, CacheMode.EXACT_ONLY, CacheMode.REFRESH, CacheMode.BYPASS]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", ["exact_only", "refresh", "bypass"])
def test_a_rule_never_lets_the_cache_do_more_than_the_request_does(mode: CacheMode, wanted: str) -> None:
    before = CacheOptions(mode=mode)
    asked, _ = ruled(f'[[rules]]\nname = "x"\ncache = "{wanted}"', request(cache=before))
    after, rule = asked.cache, CacheOptions(mode=CacheMode[wanted.upper()])
    for what in ("reads", "fills"):
        assert getattr(after, what) == (getattr(before, what) and getattr(rule, what))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('allow = ["smal"]', "rule 'x': allow: the catalogue has no model 'smal'; did you mean 'small'?"),
        ('deny = ["gpt"]', "rule 'x': deny: the catalogue has no model 'gpt'"),
        ('pin = "larg"', "rule 'x': pin: the catalogue has no model 'larg'; did you mean 'large'?"),
        ('tier = "lage"', "rule 'x': tier: the catalogue has no tier 'lage'; did you mean 'large'?"),
        ('min_tier = "x"', "rule 'x': min_tier: the catalogue has no tier 'x'; it has small, medium, large"),
        ('require = ["telepathy"]', "rule 'x': require telepathy: leaves no model of the catalogue"),
        ('tier = "small"\nrequire = ["vision"]', "require vision, tier small: leaves no model"),
        ('pin = "small"\ndeny = ["small"]', "rule 'x': pin: 'small' is excluded by deny"),
        ("", "rule 'x': asks for nothing"),
        ('when = "token > 1"\npin = "small"', "rule 'x': when: nothing is called 'token'; did you mean 'tokens'?"),
        ('when = "turns > "\npin = "small"', "rule 'x': when: does not compile"),
        ('when = "1 > 2"\npin = "small"', "can never match: its condition is always false"),
        ("when = 'category == \"math\"'\npin = 'small'", "no reference is of category 'math'; did you mean 'maths'?"),
        (
            "when = 'category in [\"law\"]'\npin = 'small'",
            "no reference is of category 'law'; there are maths, writing",
        ),
        ("when = 'category == \"maths\"'\ncache = 'bypass'", "cache: cannot depend on `category`"),
        ("when = 'language == \"English\"'\npin = 'small'", 'a language is an ISO 639-1 code such as "en"'),
        ("when = 'language in [\"EN\"]'\npin = 'small'", 'a language is an ISO 639-1 code such as "en"'),
        ("when = 'scope == \"two words\"'\npin = 'small'", "no scope can be called so"),
        ('when = "tokens > 9 && tokens < 5"\npin = "small"', "can never match: nothing is left of tokens"),
    ],
)
def test_a_wrong_rule_is_named_with_the_remedy(text: str, named: str) -> None:
    (line,) = problems(f'[[rules]]\nname = "x"\n{text}')
    assert line.startswith("policy.rules, ")
    assert named in line


def test_all_wrong_rules_are_named_at_once() -> None:
    text = '[[rules]]\nname = "a"\npin = "no"\n[[rules]]\nname = "b"\nwhen = "?"\n[[rules]]\nname = "c"'
    assert [line.split(":")[0] for line in problems(text)] == [
        "policy.rules, rule 'a'",
        "policy.rules, rule 'b'",
        "policy.rules, rule 'b'",
        "policy.rules, rule 'c'",
    ]


@pytest.mark.parametrize("when", ["", 'when = "1 < 2"'])
def test_a_rule_after_an_unconditional_stop_can_never_match(when: str) -> None:
    text = f'[[rules]]\nname = "all"\n{when}\nstop = true\n[[rules]]\nname = "late"\npin = "small"\nwhen = "turns > 1"'
    (line,) = problems(text)
    assert line.startswith("policy.rules, rule 'late': can never match: rule 'all' before it stops at every request")


def test_a_rule_with_the_condition_of_one_that_stops_can_never_match() -> None:
    rule = '[[rules]]\nname = "{}"\nwhen = "turns > 1"\npin = "small"\nstop = true\n'
    (line,) = problems(rule.format("a") + rule.format("b"))
    assert "rule 'b': can never match: rule 'a' before it stops at the same requests" in line


@pytest.mark.parametrize(
    "source",
    [
        "attributes.a == 'x' && attributes.a == 'y'",
        "attributes.a == 'x' && attributes['a'] != 'x'",
        "scope in ['a', 'b'] && scope == 'c'",
        "scope == 'a' && turns > 1 && (scope == 'b')",
        "has_code && !has_code",
        "tokens > 5 && tokens < 6",
        "tokens == 3 && tokens >= 4",
        "tokens < 0",
        "turns < 1",
        "turns == 0",
    ],
)
def test_contradicting_literals_are_seen(source: str) -> None:
    assert contradiction(source)


@pytest.mark.parametrize(
    "source",
    [
        "attributes.a == 'x' && attributes.b == 'y'",
        "scope == 'a' || scope == 'b'",
        "attributes.a != 'x' && attributes.a != 'y'",
        "tokens > 5 && tokens < 7",
        "tokens >= 5 && tokens <= 5",
        "size(prompt) > 5 && size(prompt) < 3",
        "!(has_code) && !has_code",
        "scope in ['a', 'b'] && scope == 'b'",
    ],
)
def test_what_may_hold_is_not_called_a_contradiction(source: str) -> None:
    assert not contradiction(source)


COMPARISON = st.tuples(
    st.sampled_from(["tokens", "turns"]), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.integers(0, 6)
)


@given(st.lists(COMPARISON, min_size=1, max_size=4), st.integers(0, 8), st.integers(1, 8))
def test_what_is_called_a_contradiction_holds_for_nobody(
    parts: list[tuple[str, str, int]], tokens: int, turns: int
) -> None:
    source = " && ".join(f"{name} {operator} {value}" for name, operator, value in parts)
    if contradiction(source):
        assert not eval(source.replace("&&", "and"), {"tokens": tokens, "turns": turns})  # noqa: S307


def test_tiers_are_ordered_by_price_or_as_they_are_given() -> None:
    text = '[[rules]]\nname = "x"\nmin_tier = "medium"'
    assert left(ruled(text, request())[0].route) == {"medium-1", "large-1"}
    turned = 'tiers = ["large", "medium", "small"]\n' + text
    assert left(ruled(turned, request())[0].route) == {"medium-1", "small-1"}
    typo, missing = problems('tiers = ["small", "medium", "lrge"]')
    assert typo.startswith(
        "policy.tiers: no model of the catalogue is of tier 'lrge'; did you mean 'large'?; remove it"
    )
    assert missing == "policy.tiers: the catalogue's tier 'large' is missing; say where it stands"


def test_the_strong_models_are_those_named_or_the_strongest() -> None:
    assert compiled("").strong == {"large-1"}
    assert compiled("", "small-1").strong == {"small-1"}
    assert compiled('strong = ["medium", "large"]').strong == {"medium-1", "large-1"}
    assert "policy.strong: the catalogue has no model 'x'" in problems('strong = ["x"]')[0]
    assert "names every model" in problems('strong = ["small", "medium", "large"]')[0]
