"""Recorded decisions, decided again: nothing moves where nothing changed, and what moves is counted."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, types_pb2

from index.build import build_index
from index.encoder import HashEncoder
from index.generation import set_current
from index.records import Reference
from service import replaying
from service.auth import Principal
from service.errors import Forbidden, InvalidRequest, NotFound, PreconditionFailed
from tests.service.kit import REFERENCES, Service, build, catalogue, running

ON: dict[str, Any] = {"journal": {"enabled": True}}
PROMPTS = [f"{word} {thing}" for word in ("add", "prove", "write", "summarise") for thing in ("numbers", "it", "that")]


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110 - what is waited for happens on a thread
            await asyncio.sleep(0.001)


async def replayed(service: Service, **fields: Any) -> admin_pb2.ReplayResponse:
    found: admin_pb2.ReplayResponse = await service.call("Admin.Replay", admin_pb2.ReplayRequest(**fields))
    return found


def other(root: Path) -> str:
    """Build a generation in which the small model is best for everything, and leave the first one in use."""
    first = build(root)
    best = [Reference(f"s{i}", r.prompt, "small-1") for i, r in enumerate(REFERENCES)]
    generation = build_index(best, catalogue(), HashEncoder(), root).generation
    set_current(root, first)
    return generation


async def test_with_nothing_changed_nothing_moves(tmp_path: Path) -> None:
    async with running(tmp_path, **ON) as service:
        for prompt in PROMPTS:
            await service.decide(prompt, route=types_pb2.RouteControl(deny_models=["medium"]))
        found = await replayed(service)
        assert (found.recorded, found.replayed, found.changed) == (12, 12, 0)
        assert found.cost_change_usd == found.quality_change == 0
        assert found.models_before == found.models_after
        assert found.generation == service.runtime.decider.generation.id


async def test_another_generation_shows_what_moves_and_what_that_costs(tmp_path: Path) -> None:
    generation = other(tmp_path)
    async with running(tmp_path, **ON) as service:
        for prompt in PROMPTS:
            await service.decide(prompt)
        found = await replayed(service, generation=generation)
        assert found.changed > 0
        assert found.models_after["small-1"] == found.models_before["small-1"] + found.changed
        assert found.cost_after_usd < found.cost_before_usd
        assert found.cost_change_usd == pytest.approx(found.cost_after_usd - found.cost_before_usd)
        assert sum(move.decisions for move in found.moves) == found.changed
        assert {example.to_model for example in found.examples} == {"small-1"}
        assert service.runtime.decider.generation.id != generation


async def test_other_settings_scopes_and_limits(tmp_path: Path) -> None:
    async with running(tmp_path, **ON) as service:
        for prompt in PROMPTS:
            await service.decide(prompt, scope="a")
            await service.decide(prompt, scope="b")
        found = await replayed(service, scope="a", settings="[routing]\nmin_similarity = 1.0\nfallback = 'large'")
        assert found.recorded == 12
        assert dict(found.models_after) == {"large-1": 12}
        assert (await replayed(service, limit=5)).recorded == 5


async def test_another_policy_is_applied_to_the_requests_as_they_came(tmp_path: Path) -> None:
    before = {"rules": [{"name": "gold", "when": 'attributes.tier == "gold"', "pin": "large"}]}
    async with running(tmp_path, **ON, policy=before) as service:
        for prompt in PROMPTS:
            await service.decide(prompt, attributes={"tier": "gold"})
        same = await replayed(service)
        assert (same.changed, dict(same.models_after)) == (0, {"large-1": 12})
        after = """[[policy.rules]]
name = "gold"
when = 'attributes.tier == "gold"'
allow = ["small"]"""
        found = await replayed(service, settings=after)
        assert dict(found.models_after) == {"small-1": 12}
        with pytest.raises(InvalidRequest, match="rule 'gold': pin: the catalogue has no model 'nobody'"):
            await replayed(service, settings=after.replace('allow = ["small"]', 'pin = "nobody"'))


async def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    async with running(tmp_path, **ON) as service:
        with pytest.raises(InvalidRequest, match=r"settings: cache: only \[routing\]"):
            await replayed(service, settings="[cache]\nenabled = false")
        for value in ("[" * 5_000, "1" * 5_000):
            with pytest.raises(InvalidRequest, match="settings: is not valid TOML"):
                await replayed(service, settings=f"[routing]\noutput_tokens = {value}")
        with pytest.raises(InvalidRequest, match=r"settings: routing.falback: no such setting; see docs/operations.md"):
            await replayed(service, settings="[routing]\nfalback = 'small'")
        with pytest.raises(InvalidRequest, match=r"routing\.neighbours"):
            await replayed(service, settings="[routing]\nneighbours = 'many'")
        with pytest.raises(InvalidRequest, match="fallback"):
            await replayed(service, settings="[routing]\nfallback = 'nobody'")
        with pytest.raises(InvalidRequest, match="TOML"):
            await replayed(service, settings="[routing")
        with pytest.raises(NotFound, match="ListGenerations"):
            await replayed(service, generation="0" * 16)
        with pytest.raises(InvalidRequest, match="limit"):
            await replayed(service, limit=-1)
        service.principal = Principal("shop", frozenset({"*"}), admin=False)
        with pytest.raises(Forbidden):
            await replayed(service)
    async with running(tmp_path) as service:
        with pytest.raises(PreconditionFailed, match=r"journal\.enabled"):
            await replayed(service)


async def test_one_at_a_time_and_a_caller_that_leaves_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.learning.replay._REST", 1_000.0)
    async with running(tmp_path, **ON) as service:
        for prompt in PROMPTS * 3:
            await service.decide(prompt)
        first = asyncio.ensure_future(replayed(service))
        await until(replaying.under_way)
        with pytest.raises(PreconditionFailed, match="under way"):
            await replayed(service)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        monkeypatch.setattr("service.learning.replay._REST", 0.0)
        await until(lambda: not replaying.under_way())
        assert (await replayed(service)).recorded == 36
