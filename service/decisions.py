"""The latest decisions, by id: what Report, Review, Explain and fills look up. Bounded; the oldest are forgotten."""

import secrets
from collections import OrderedDict

from service.requests import Decision


class DecisionLog:
    """Decisions in memory.

    Args:
        keep: how many of the latest.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, decision: Decision) -> None:
        """Remember a decision."""
        self._decisions[decision.id] = decision
        if len(self._decisions) > self._keep:
            self._decisions.popitem(last=False)

    def get(self, decision_id: str) -> Decision | None:
        """Return a decision, or None where it is not known or no longer."""
        return self._decisions.get(decision_id)


def new_id() -> str:
    """Return an id nobody can guess: 96 bits in hex."""
    return secrets.token_hex(12)
