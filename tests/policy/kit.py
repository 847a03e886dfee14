"""A catalogue with tiers, a policy written as TOML, and a request without anything."""

import tomllib

import pytest

from service.errors import SettingsError
from service.policy.compiled import Compiled, compile_policy
from service.policy.rules import rule_early
from service.policy_settings import PolicySettings
from service.requests import Prompt, Request, Trace
from tests.service.kit import MODELS, catalogue

TIERED = MODELS
for _name in ("small", "medium", "large"):
    TIERED = TIERED.replace(f'id = "{_name}-1"', f'id = "{_name}-1"\ntier = "{_name}"')
CATALOGUE = catalogue(TIERED)
CATEGORIES = {"maths", "writing"}


def policy(text: str) -> PolicySettings:
    return PolicySettings(**tomllib.loads(text))


def compiled(text: str, strongest: str = "large-1") -> Compiled:
    return compile_policy(policy(text), CATALOGUE, strongest, CATEGORIES)


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        compiled(text)
    return error.value.problems


def request(text: str = "a prompt", **fields: object) -> Request:
    return Request(**{"scope": "default", "text": text, **fields})  # type: ignore[arg-type]


def ruled(text: str, asked: Request) -> tuple[Request, str]:
    """Apply the rules of a policy to a request, as `Policy.admit` does."""
    prompt, trace = Prompt(asked.text, b"", turns=1 + len(asked.history), size=len(asked.text)), Trace(asked)
    found = rule_early(asked, prompt, trace, compiled(text))
    return found, trace.rule
