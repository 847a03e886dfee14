"""The latest decisions, by id: what Report, Review, Explain and fills look up. Bounded; the oldest are forgotten."""

from collections import OrderedDict

from service.requests import Decision


class DecisionLog:
    """Decisions in memory.

    Args:
        keep: how many of the latest, at the most.
        keep_bytes: how much text they may hold together, at the most; the latest is kept whatever its size.
    """

    def __init__(self, keep: int, keep_bytes: int) -> None:
        self._keep, self._keep_bytes = keep, keep_bytes
        self._decisions: OrderedDict[str, tuple[Decision, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, decision: Decision) -> None:
        """Remember a decision."""
        size = text_size(decision)
        self._decisions[decision.id] = (decision, size)
        self._bytes += size
        while len(self._decisions) > self._keep or (self._bytes > self._keep_bytes and len(self._decisions) > 1):
            self._bytes -= self._decisions.popitem(last=False)[1][1]

    def all(self) -> list[Decision]:
        """Return all of them, oldest first."""
        return [decision for decision, _ in self._decisions.values()]

    def get(self, decision_id: str) -> Decision | None:
        """Return a decision, or None where it is not known or no longer."""
        found = self._decisions.get(decision_id)
        return found[0] if found is not None else None


def text_size(decision: Decision) -> int:
    """Return about how many bytes of text a decision holds on to: a character of most scripts is at most two.

    Those of the answers it looked at count too, though they are shared with others as long as these are there.
    """
    characters = decision.prompt.size + len(decision.prompt.text)
    if decision.hit is not None:
        characters += len(decision.hit.matched)
    for one in decision.judged:
        characters += len(one.entry.prompt)
    return 2 * characters + len(decision.vector)
