"""The example policies do what they say, with the catalogue they are written for."""

from pathlib import Path

import pytest

from index.catalogue import load_catalogue
from service.policy.compiled import compile_policy
from service.policy.rules import rule_early
from service.requests import CacheMode, Prompt, Request, Trace
from service.settings import load_settings
from tests.conftest import ROOT
from tests.docs.blocks import BLOCKS, Block

CATALOGUE = load_catalogue(ROOT / "reference_prompts" / "models.toml")


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.path.name == "policy.md" and "waypost.toml" in b.info], ids=str
)
def test_documented_policies_fit_the_starter_catalogue(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "waypost.toml"
    path.write_text(block.text, encoding="utf-8")
    categories = {"legal", "small_talk", "translation"}
    compile_policy(load_settings(path).policy, CATALOGUE, CATALOGUE.ids[0], categories)


def decided(example: str, text: str, turns: int = 1, **attributes: str) -> tuple[str, set[str], Request]:
    """Return the rules that matched, the models they leave, and the request they make."""
    settings = load_settings(ROOT / "examples" / "policy" / f"{example}.toml").policy
    bound = compile_policy(settings, CATALOGUE, CATALOGUE.ids[0], set())
    asked = Request("default", text, attributes=attributes)
    prompt = Prompt(text, b"", turns=turns, size=len(text))
    trace = Trace(asked)
    request = rule_early(asked, prompt, trace, bound)
    return trace.rule, {model for model in CATALOGUE.ids if request.route.admits(model)}, request


def tiers(models: set[str]) -> set[str]:
    return {CATALOGUE.get(model).tier for model in models}


@pytest.mark.parametrize(
    ("text", "rule", "left"),
    [
        ("Hello there!", "small talk", {"small"}),
        ("Please prove this theorem for me", "hard words", {"large"}),
        ("thanks, now derive the formula", "hard words", {"large"}),
        ("word " * 4_000, "long or deep", {"medium", "large"}),
        ("Why?\n```\nx = 1\n```", "code", {"medium", "large"}),
        ("Which day is it today?", "", {"small", "medium", "large"}),
    ],
)
def test_tiers_from_keywords_and_looks(text: str, rule: str, left: set[str]) -> None:
    matched, models, _ = decided("keyword-tiers", text)
    assert (matched, tiers(models)) == (rule, left)


def test_a_critical_flow_is_pinned_to_the_top_tier() -> None:
    rule, models, request = decided("keyword-tiers", "Hello", flow="checkout")
    assert (rule, tiers(models)) == ("critical flows", {"large"})
    assert request.route.pin == "gpt-6.1-sol"
    assert request.cache.mode is CacheMode.EXACT_ONLY


@pytest.mark.parametrize(
    ("text", "rule", "left"),
    [
        ("Does this clause limit our liability?", "legal", {"claude-opus-5-5", "claude-sonnet-5-5"}),
        ("Select the name from the CSV with SQL", "data", {"gpt-6.1-terra", "gpt-6.1-sol"}),
        ("Write a poem about rain", "writing", {"gemini-3.8-flash", "claude-sonnet-5-5"}),
        ("Wie wird das Wetter morgen in Berlin sein?", "not in English", set(CATALOGUE.ids) - {"deepseek-flash"}),
        ("What will the weather be like tomorrow?", "", set(CATALOGUE.ids)),
    ],
)
def test_domains_from_keywords(text: str, rule: str, left: set[str]) -> None:
    assert decided("keyword-domains", text)[:2] == (rule, left)
