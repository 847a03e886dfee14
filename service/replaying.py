"""Admin.Replay: finds what to replay and with what, and runs it beside the event loop, one at a time.

Called by `service.operations`; the work itself is `service.learning.replay`.
"""

import asyncio
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pydantic import ValidationError

from index.errors import CatalogueError
from index.generation import Generation
from service.decide import Decider
from service.errors import InvalidRequest, PreconditionFailed, SettingsError
from service.learning.journal import Journal
from service.learning.online import Learner
from service.learning.replay import Replayed, replan, replay
from service.policy.compiled import fit
from service.requests import Decision, Plan
from service.routing.choose import fallback_model
from service.runtime import Runtime
from service.settings import Settings, explained

_TABLES: Final = ("routing", "learning", "policy")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to replay: "" and None are the generation and settings in use, all scopes, all that is recorded."""

    generation: str = ""
    settings: str = ""
    scope: str = ""
    period_s: float | None = None
    limit: int = 10_000


async def run(runtime: Runtime, wanted: Wanted) -> tuple[str, Replayed]:
    """Return the generation that was replayed with, and what would move.

    Raises:
        InvalidRequest: the settings are wrong.
        NotFound: there is no such generation.
        PreconditionFailed: there is no journal, another replay is under way, or the generation cannot be used.
    """
    journal = runtime.decider.journal
    if journal is None:
        raise PreconditionFailed(
            "JOURNAL_DISABLED",
            "journal.enabled",
            "no decisions are recorded: set journal.enabled, or, where it is set, make room on the disk and restart",
        )
    settings = changed(runtime.settings, wanted.settings)
    generation = runtime.decider.generation
    if wanted.generation and wanted.generation != generation.id:
        generation = await runtime.find(wanted.generation)
    try:
        fallback_model(generation, settings.routing.fallback)
        await asyncio.to_thread(fit, settings.policy, generation)
    except CatalogueError as error:
        raise InvalidRequest(("settings", f"routing.fallback: {error}")) from error
    except SettingsError as error:
        raise InvalidRequest(("settings", str(error))) from error
    learner = runtime.decider.learner
    # A copy of its own: what is learned goes on changing on the event loop.
    learned = learner.snapshot(settings.learning) if learner is not None and settings.learning.enabled else None
    if not _one_at_a_time.acquire(blocking=False):
        raise PreconditionFailed("REPLAY_UNDER_WAY", "replay", "another replay is under way: try again when it is done")
    stop = threading.Event()
    try:
        work = asyncio.get_running_loop().run_in_executor(
            None, _work, runtime, partial(_decider, runtime, settings, generation, learned), journal, wanted, stop
        )
        return generation.id, await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        raise
    finally:
        if not stop.is_set():
            _one_at_a_time.release()
        else:
            work.add_done_callback(lambda _: _one_at_a_time.release())


def under_way() -> bool:
    """Return whether a replay is running."""
    return _one_at_a_time.locked()


def changed(settings: Settings, text: str) -> Settings:
    """Return settings with the tables of a TOML text in place of theirs; raises InvalidRequest where it is wrong."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may be too long, tables nested too deep
        raise InvalidRequest(("settings", f"is not valid TOML: {error}")) from None
    if others := sorted(set(tables) - set(_TABLES)):
        raise InvalidRequest(("settings", f"{', '.join(others)}: only [{'], ['.join(_TABLES)}] can be replayed"))
    update = {}
    for name, values in tables.items():
        table = getattr(settings, name)
        given = values if isinstance(values, dict) else {"": values}
        try:
            update[name] = type(table).model_validate(table.model_dump(exclude_unset=True) | given)
        except ValidationError as error:
            wrong = (explained({**e, "loc": (name, *e["loc"])}, tables) for e in error.errors())
            raise InvalidRequest(("settings", "; ".join(wrong))) from None
    return settings.model_copy(update=update)


def _decider(runtime: Runtime, settings: Settings, generation: Generation, learned: Learner | None) -> Decider:
    """Return a decider for the replay alone; it takes a moment, as its policy gets ready for the generation."""
    decider = replace(runtime.decider, settings=settings, generation=generation, learner=learned)
    decider.policy.like(runtime.decider.policy)
    return decider


def _work(
    runtime: Runtime, make: Callable[[], Decider], journal: Journal, wanted: Wanted, stop: threading.Event
) -> Replayed:
    decider = make()
    generation, view = decider.generation, decider.answers.view
    base = decider.base(generation)
    journal.flush()
    since = 0.0 if wanted.period_s is None else time.time() - wanted.period_s
    rows = journal.file.plans(since, wanted.limit, wanted.scope)

    def plan(decisions: Sequence[Decision]) -> list[Plan]:
        return replan(decisions, generation, decider.plan, view, base)

    return replay(rows, plan, runtime.encoder.digest, stop)
