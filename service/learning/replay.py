"""Recorded decisions against another generation or other settings: what would move, and what it would cost.

Runs on a thread beside the event loop, in short steps, and stops when nobody waits for it any more. It changes nothing.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from index.generation import Generation
from index.sqlite_journal import DecisionRow
from index.view import View
from service.learning.journal import restored
from service.lookup import Ask, Found, search
from service.requests import Decision, Estimate, Plan

Planner = Callable[[Decision, Found, Generation], Plan]
_AT_ONCE: Final = 16
# After each step the event loop has the interpreter to itself for as long as the step took.
_REST: Final = 1.0
_EXAMPLES: Final = 20


@dataclass(slots=True)
class Move:
    """The decisions that would go from one model to another ("" is no model); changes are sums over them."""

    decisions: int = 0
    cost_usd: float = 0.0
    quality: float = 0.0


@dataclass(slots=True)
class Replayed:
    """What a replay found. Of the decisions that were recorded, `replayed` could be decided again.

    Costs and qualities are those the replaying generation expects, for the recorded choice (`before`) and for its own
    (`after`), summed over decisions where it knows both models; so nothing in a difference is due to two generations
    estimating differently. `examples` are ids of decisions that move, those that gain or lose most first.
    """

    recorded: int = 0
    replayed: int = 0
    changed: int = 0
    compared: int = 0
    cost_before: float = 0.0
    cost_after: float = 0.0
    quality_before: float = 0.0
    quality_after: float = 0.0
    shares_before: Counter[str] = field(default_factory=Counter)
    shares_after: Counter[str] = field(default_factory=Counter)
    moves: dict[tuple[str, str], Move] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def replan(
    decisions: Sequence[Decision], generation: Generation, planner: Planner, view: View, base: int
) -> list[Plan]:
    """Return the plan of each decision's prompt, as a planner makes it; estimates are set in the decisions.

    Args:
        decisions: with their vectors; what they resulted in is not looked at.
        generation: whose references are searched.
        planner: estimates and chooses.
        view: of live references.
        base: column of the fallback.
    """
    vectors = np.stack([np.frombuffer(decision.vector, "<f4") for decision in decisions])
    asks = [Ask(None, generation, view.reference_partition(d.request.scope), d.prompt.text, base) for d in decisions]
    return [planner(d, near, generation) for d, near in zip(decisions, search(asks, vectors), strict=True)]


def replay(
    rows: Sequence[DecisionRow],
    plan: Callable[[Sequence[Decision]], Sequence[Plan]],
    encoder_digest: str,
    stop: threading.Event,
) -> Replayed:
    """Return what would become of recorded decisions.

    Args:
        rows: decisions that made a plan.
        plan: plans decisions as they are to be decided, and sets their estimates.
        encoder_digest: of the encoder in use: what another embedded cannot be decided again, and
            neither can what was recorded without its prompt.
        stop: set when nobody waits for the result any more.
    """
    found = Replayed(recorded=len(rows))
    usable = [row for row in rows if row.vector and row.prompt is not None and row.encoder == encoder_digest]
    worth: list[tuple[float, tuple[str, str, str]]] = []
    for first in range(0, len(usable), _AT_ONCE):
        if stop.is_set():
            break
        started = time.perf_counter()
        some = usable[first : first + _AT_ONCE]
        decisions = [restored(row) for row in some]
        before = [decision.plan for decision in decisions]
        for decision, old, new in zip(decisions, before, plan(decisions), strict=True):
            if old is not None:
                moved = _count(found, _first(old), _first(new), decision.estimates)
                if moved is not None:
                    worth.append((moved, (decision.id, _first(old), _first(new))))
        stop.wait(_REST * (time.perf_counter() - started))
    worth.sort(key=lambda one: -abs(one[0]))
    found.examples = [example for _, example in worth[:_EXAMPLES]]
    return found


def _first(plan: Plan) -> str:
    return plan.steps[0].model if plan.steps else ""


def _count(found: Replayed, old: str, new: str, estimates: Sequence[Estimate]) -> float | None:
    """Count one decision; return by how much quality would change where its model does, else None."""
    expected = {estimate.model: estimate for estimate in estimates}
    found.replayed += 1
    found.shares_before[old] += 1
    found.shares_after[new] += 1
    if old in expected and new in expected:
        found.compared += 1
        found.cost_before += expected[old].cost_usd
        found.cost_after += expected[new].cost_usd
        found.quality_before += expected[old].quality
        found.quality_after += expected[new].quality
    if old == new:
        return None
    found.changed += 1
    move = found.moves.setdefault((old, new), Move())
    move.decisions += 1
    if old in expected and new in expected:
        move.cost_usd += expected[new].cost_usd - expected[old].cost_usd
        move.quality += expected[new].quality - expected[old].quality
        return expected[new].quality - expected[old].quality
    return 0.0
