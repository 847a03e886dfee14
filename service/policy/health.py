"""Health: a model whose calls fail for somebody is left alone there for a while, then tried once, then used again.

One circuit for each account (see `service.requests.account_of`) and model, learned from reports alone. An account's
reports never touch another's circuits: who reports failures, rightly or not, only steers their own traffic.

    closed ── failures ──▶ open ── time ──▶ half-open ── one trial succeeds ──▶ closed
                             ▲                  └─────── the trial fails ─────▶ open, for twice as long
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

from service.policy_settings import HealthSettings
from service.requests import Outcome

_MAX_CIRCUITS: Final = 20_000
_LONGEST: Final = 20.0  # times open_s
_FAILURES: Final = (Outcome.ERROR, Outcome.TIMEOUT)
_COUNTED: Final = (Outcome.OK, Outcome.REFUSED, *_FAILURES)  # a caller that left says nothing of the model
_USUAL: Final = 0.1  # weight of the newest latency in the usual one


@dataclass(slots=True)
class Circuit:
    """One model in one account. Times in seconds (monotonic); `until` is 0 while closed; `trial`: one is under way."""

    results: "deque[bool]"
    until: float = 0.0
    wait: float = 0.0
    trial: bool = False
    usual: float = 0.0
    timed: int = 0


@dataclass(slots=True)
class Health:
    """All circuits.

    Args:
        settings: of health.
    """

    settings: HealthSettings
    _circuits: "LRUCache[tuple[str, str], Circuit]" = field(default_factory=lambda: LRUCache(_MAX_CIRCUITS))
    _open: dict[str, dict[str, Circuit]] = field(default_factory=dict)

    def avoided(self, account: str, now: float) -> Collection[str]:
        """Return the models whose circuits are open in an account."""
        circuits = self._open.get(account)
        return [model for model, circuit in circuits.items() if now < circuit.until] if circuits else ()

    def chosen(self, account: str, model: str, now: float) -> bool:
        """Note that a plan begins with a model; return whether this is the trial of a circuit that is not closed.

        Others keep away until its outcome is reported, or until as long again has passed without.
        """
        circuit = self._open[account].get(model) if account in self._open else None
        if circuit is None:
            return False
        circuit.until, circuit.trial = now + circuit.wait, True
        return True

    def reported(self, account: str, model: str, outcome: Outcome, latency: float | None, now: float) -> None:
        """Take in how a call ended; latency in seconds, None where it was not reported."""
        if not self.settings.enabled or outcome not in _COUNTED:
            return
        circuit = self._open.get(account, {}).get(model) or self._circuits.get((account, model))
        if circuit is None:
            circuit = self._circuits[account, model] = Circuit(deque(maxlen=self.settings.window))
        failed = outcome in _FAILURES or self._slow(circuit, latency)
        circuit.results.append(failed)
        if circuit.trial or 0 < circuit.until <= now:  # half open, and called as a later step of a plan
            self._tried(account, model, circuit, now, failed=failed)
        elif circuit.until:  # of a call that was under way when it opened: nothing new
            return
        elif self._failing(circuit):
            circuit.wait = self.settings.open_s
            circuit.until = now + circuit.wait
            self._open.setdefault(account, {})[model] = circuit
            self._forget()

    def open(self) -> int:
        """Return how many circuits are not closed."""
        return sum(map(len, self._open.values()))

    def _failing(self, circuit: Circuit) -> bool:
        """Return whether enough of the latest calls failed."""
        seen = len(circuit.results)
        return seen >= self.settings.least and sum(circuit.results) >= self.settings.failure_share * seen

    def _slow(self, circuit: Circuit, latency: float | None) -> bool:
        """Return whether a call took far longer than usual; the usual time follows the calls that did not."""
        factor = self.settings.slow_factor
        if not factor or latency is None:
            return False
        if circuit.timed >= self.settings.least and latency > factor * circuit.usual:
            return True
        circuit.timed += 1
        circuit.usual += max(_USUAL, 1 / circuit.timed) * (latency - circuit.usual)
        return False

    def _tried(self, account: str, model: str, circuit: Circuit, now: float, *, failed: bool) -> None:
        """Close a circuit whose trial succeeded; leave it open for longer where it failed."""
        circuit.trial = False
        if failed:
            circuit.wait = min(circuit.wait * 2, _LONGEST * self.settings.open_s)
            circuit.until = now + circuit.wait
            return
        circuit.until = circuit.wait = 0.0
        circuit.results.clear()
        del self._open[account][model]
        if not self._open[account]:
            del self._open[account]

    def _forget(self) -> None:
        """Drop what is open of circuits that are remembered no longer."""
        while self.open() > _MAX_CIRCUITS:
            account = next(iter(self._open))
            del self._open[account]
