"""What was learned of caching in one scope: the learner, records of answers and checks, and the accounts of budgets.

Plain values go out and come back, so that it survives a restart. `service.cache.keeper` has one for each scope.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import LRUCache

from service.cache.budget import Ledger
from service.cache.learner import Learner
from service.cache.unknown import Unknown

# Budgets that one scope keeps accounts of; callers that make up ever new ones start anew.
_MAX_BUDGETS: Final = 16
# Answers of one scope whose verdicts are remembered, about 40 bytes each where they are kept.
_MAX_RECORDS: Final = 512
# Of an answer's record with each verdict: the last ten count, so that one that has gone stale shows soon.
_FORGET: Final = 0.9

# A check that refuses is outweighed by a scope's verdicts once there are 18 of answers it refused (as much as 15, since
# older ones count less: the last 50 or so do) and most said right. Before that it has the last word.
_ENOUGH: Final = 15.0
_FORGET_CHECK: Final = 0.98


@dataclass(slots=True)
class ScopeKeeper:
    """What was learned in one scope.

    Verdicts are (right, wrong): `records` by an answer's identity, `checks` of what a check of the guard refused. Of
    the accounts the one that was used least lately is first.
    """

    learner: Learner = field(default_factory=Learner)
    ledgers: OrderedDict[float, Ledger] = field(default_factory=OrderedDict)
    records: LRUCache[bytes, tuple[float, float]] = field(default_factory=lambda: LRUCache(_MAX_RECORDS))
    checks: dict[str, tuple[float, float]] = field(default_factory=dict)
    unknown: Unknown = field(default_factory=Unknown)

    def ledger(self, budget: float) -> Ledger:
        """Return the account of a budget."""
        found = self.ledgers.get(budget)
        if found is not None:
            self.ledgers.move_to_end(budget)
            return found
        if len(self.ledgers) >= _MAX_BUDGETS:
            self.ledgers.popitem(last=False)
        found = self.ledgers[budget] = Ledger(budget)
        return found

    def record(self, answer: bytes) -> float:
        """Return the log-odds that an answer is wrong, by its verdicts alone; 0 without any."""
        right, wrong = self.records.get(answer, (0.0, 0.0))
        return math.log((wrong + 1.0) / (right / 2.0 + 1.0))

    def told(self, answer: bytes, check: str = "", *, wrong: bool) -> None:
        """Put a verdict into an answer's record, and into that of the check that refused it."""
        right, bad = self.records.get(answer, (0.0, 0.0))
        self.records[answer] = (_FORGET * right + (not wrong), _FORGET * bad + wrong)
        if check:
            right, bad = self.checks.get(check, (0.0, 0.0))
            self.checks[check] = (_FORGET_CHECK * right + (not wrong), _FORGET_CHECK * bad + wrong)

    def outweighs(self, check: str) -> bool:
        """Return whether verdicts speak louder here than a check that refuses."""
        right, wrong = self.checks.get(check, (0.0, 0.0))
        return right + wrong >= _ENOUGH and right >= wrong


def state(kept: ScopeKeeper) -> dict[str, Any]:
    """Return what `restored` needs, as plain values."""
    return {
        "learner": kept.learner.state(),
        "ledgers": {str(budget): ledger.state() for budget, ledger in kept.ledgers.items()},
        "records": {answer.hex(): list(record) for answer, record in kept.records.items()},
        "checks": {check: list(record) for check, record in kept.checks.items()},
        "unknown": kept.unknown.state(),
    }


def restored(values: dict[str, Any]) -> ScopeKeeper:
    """Return what was learned, from its state."""
    kept = ScopeKeeper()
    kept.learner.restore(values["learner"])
    for budget, ledger in values["ledgers"].items():
        kept.ledger(float(budget)).restore(ledger)
    for answer, (right, wrong) in values["records"].items():
        kept.records[bytes.fromhex(answer)] = (float(right), float(wrong))
    for check, (right, wrong) in values.get("checks", {}).items():
        kept.checks[check] = (float(right), float(wrong))
    if "unknown" in values:
        kept.unknown.restore(values["unknown"])
    return kept
