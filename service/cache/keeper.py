"""The verify stage under an error budget: which answer is the likeliest, and may it be served?

Owns what was learned in each scope (`service.cache.scope`); nothing learned in one is ever used in another. On the
event loop, in memory; `changed` and `restore` are what it takes to keep it. Called by `service.decide`, and by
`service.lessons` with what came of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cachetools import Cache

from index.guard import CHECKS
from index.text import plain
from index.verifier import LEAST_COSINE
from index.view import Entry
from service.cache.budget import Action, Ledger
from service.cache.learner import Evidence, evidence
from service.cache.scope import ScopeKeeper, restored, state
from service.cache.semantic import Judge, Standing, answered, budget_of, reading, refuse, standing
from service.chance import coin
from service.requests import Judged, Prompt, Request, Trial
from service.settings import CacheSettings

_MAX_SCOPES: Final = 10_000

# The error of an answer to the same words, where only case, spacing and punctuation differ and no check refuses it: no
# experience is needed to serve it. Audits find out where it is not so.
_SAME: Final = 0.001

# Checks that a scope's verdicts may outweigh (`ScopeKeeper.outweighs`): where not all was read, they never do.
_YIELDING: Final = frozenset(CHECKS) - {"too_long"}
_REFUSED: Final = 0.95  # the error of what a check refuses: no budget bears it

AUDITED: Final = "audited"
OVER_BUDGET: Final = "error_budget"
UNNEEDED: Final = "unneeded"
"""Not looked at: a nearer prompt has the same answer, and nothing speaks against it."""


@dataclass(frozen=True, slots=True)
class Found:
    """The likeliest answer to a prompt: the entry it was found by, and what the learner looks at.

    `check` of the guard refuses all prompts that have it; it still does where `judged` says so, else it is outweighed.
    """

    judged: Judged
    evidence: Evidence
    check: str = ""


class Keeper:
    """Error budgets of all scopes.

    Args:
        judge: guard and verifier.
        coin: returns a random number in [0, 1): which hits are audited must not be foreseen.
    """

    def __init__(self, judge: Judge, coin: Callable[[], float] = coin) -> None:
        self._judge, self._coin = judge, coin
        self._scopes: OrderedDict[str, ScopeKeeper] = OrderedDict()  # the one silent for longest is first
        self._changed: set[str] = set()
        self.actions = {action.value: 0 for action in Action}
        self.verdicts = {"right": 0, "wrong": 0, "unknown": 0}
        self.changes = 0

    def scope(self, name: str) -> ScopeKeeper:
        """Return what was learned in a scope."""
        found = self._scopes.get(name)
        if found is None:
            return self._take(name, ScopeKeeper())
        self._scopes.move_to_end(name)
        return found

    def changed(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield scopes in which something was learned or counted since the last time, with their state.

        None is that of one that had to make room.
        """
        changed, self._changed = self._changed, set()
        for name in changed:
            kept = self._scopes.get(name)
            yield name, state(kept) if kept is not None else None

    def restore(self, states: Mapping[str, Any]) -> None:
        """Go on from what `changed` once gave."""
        for name, values in states.items():
            self._take(name, restored(values))

    def _take(self, name: str, kept: ScopeKeeper) -> ScopeKeeper:
        """Keep what was learned in a scope; where there are too many, the one that was silent for longest goes."""
        if len(self._scopes) >= _MAX_SCOPES:
            self._changed.add(self._scopes.popitem(last=False)[0])
        self._scopes[name] = kept
        return kept

    def ledgers(self, name: str) -> Collection[Ledger]:
        """Return the accounts of a scope without making room for it."""
        found = self._scopes.get(name)
        return found.ledgers.values() if found is not None else ()

    @property
    def broken(self) -> int:
        """How many accounts have a bound above their budget."""
        return sum(ledger.broken for name in self._scopes for ledger in self.ledgers(name))

    def verdicts_on(self, scope: str, answer: bytes) -> tuple[float, float]:
        """Return the verdicts on an answer that count, right and wrong, without making it stay longer for that."""
        kept = self._scopes.get(scope)
        if kept is None or answer not in kept.records:
            return 0.0, 0.0
        return Cache.__getitem__(kept.records, answer)

    def count(self, scope: str, budget: float) -> None:
        """Count a request that would have been served a cached answer, had there been one."""
        if 0.0 < budget < 1.0:
            self.scope(scope).ledger(budget).request()
            self._changed.add(scope)

    def verify(
        self,
        prompt: Prompt,
        near: Sequence[tuple[float, Entry]],
        request: Request,
        settings: CacheSettings,
        now: float,
    ) -> tuple[Judged | None, tuple[Judged, ...], Trial | None]:
        """Return the entry to serve, all that were judged, and what a verdict will be about, be it served or not.

        Args:
            prompt: the prompt to answer.
            near: (cosine, entry) of the same scope and context, nearest first.
            request: what the caller allows; the budget is above 0 and below 1.
            settings: what the operator allows in this scope.
            now: seconds since the epoch.
        """
        kept = self.scope(request.account)
        found, judged = self._likeliest(kept, prompt, near, request, settings, now)
        if found is None:
            return None, judged, None
        budget = budget_of(request.cache, settings)
        error = kept.learner.error(found.evidence)
        if found.judged.refused_by:
            error = max(error, _REFUSED)
        elif not found.check and plain(prompt.text) == plain(found.judged.entry.prompt):
            error = min(error, _SAME)
        ledger = kept.ledger(budget)
        bearable = ledger.bearable
        action, chance = ledger.decide(error, self._coin(), kept.learner.taught)
        self.actions[action.value] += 1
        why = {Action.SERVE: "", Action.AUDIT: AUDITED, Action.EXPLORE: OVER_BUDGET}[action]
        refused = found.judged.refused_by
        told = found.judged if refused else found.judged._replace(probability=1.0 - error, refused_by=why)
        audit = action is Action.AUDIT
        trial = Trial(told.entry, found.evidence, error, budget, bearable, chance, audit, found.check)
        judged = tuple(told if one is found.judged else one for one in judged)
        return (told if action is Action.SERVE else None), judged, trial

    def learn(self, scope: str, trial: Trial, *, wrong: bool) -> None:
        """Take in whether a trial's answer was right."""
        self.verdicts["wrong" if wrong else "right"] += 1
        kept = self.scope(scope)
        self._changed.add(scope)
        if trial.audit:
            kept.unknown.audited(unknown=False)
        self._take_in(kept, trial, wrong=wrong)

    def learn_unknown(self, scope: str, trial: Trial) -> None:
        """Take in that nobody can tell whether a trial's answer was right, which as a rule teaches nothing."""
        self.verdicts["unknown"] += 1
        kept = self.scope(scope)
        if trial.audit and kept.unknown.audited(unknown=True):
            self._doubt(kept)
        self._changed.add(scope)
        if kept.unknown.wrong:
            self._take_in(kept, trial, wrong=True)

    def _take_in(self, kept: ScopeKeeper, trial: Trial, *, wrong: bool) -> None:
        if kept.learner.surprised(trial.error, wrong=wrong):
            self._doubt(kept)
        kept.learner.learn(trial.evidence, wrong=wrong, chance=trial.chance)
        kept.told(trial.entry.meaning, trial.check, wrong=wrong)
        ledger = kept.ledger(trial.budget)
        if trial.audit:
            ledger.audited(trial.error, wrong=wrong)
        else:
            ledger.explored(trial.error, wrong=wrong)

    def _doubt(self, kept: ScopeKeeper) -> None:
        """Take what was learned for a guess again: answers have changed, and nobody knows which."""
        self.changes += 1
        kept.learner.doubt()
        kept.records.clear()
        for account in kept.ledgers.values():
            account.changed()

    def complain(self, scope: str, budget: float, trial: Trial | None, answer: bytes) -> None:
        """Take in that a served answer was wrong; `trial` of a semantic hit, None of an exact one."""
        self.verdicts["wrong"] += 1
        kept = self.scope(scope)
        self._changed.add(scope)
        if trial is not None:
            kept.learner.learn(trial.evidence, wrong=True)
        kept.told(answer, trial.check if trial is not None else "", wrong=True)
        if 0.0 < budget < 1.0:
            kept.ledger(budget).complained()

    def _likeliest(
        self,
        kept: ScopeKeeper,
        prompt: Prompt,
        near: Sequence[tuple[float, Entry]],
        request: Request,
        settings: CacheSettings,
        now: float,
    ) -> tuple[Found | None, tuple[Judged, ...]]:
        """Let the near entries vote on the answer; judge those of the answer with most votes, then of the next.

        The nearest prompt that nothing speaks against stands for its answer; others that this is stored for only vote.
        An answer all of whose prompts a check refuses, and that no verdicts outweigh, is looked at if there is no
        other, so that verdicts come of it too. Votes of what may not be served count too, but not for an answer that
        was passed over.
        """
        alive = [one for one in near if one[0] >= LEAST_COSINE and one[1].alive(now)]
        answers, votes = answered(alive, lambda entry: entry.meaning)
        every, judged, read = dict(votes), list[Judged](), reading(prompt)
        refused: tuple[bytes, Judged] | None = None
        for answer in sorted(votes, key=votes.__getitem__, reverse=True):
            stands = standing(answer, answers, votes)
            best, check, looked = None, "", list[Judged]()
            for similarity, entry in answers[answer]:
                if best is not None:
                    looked.append(Judged(entry, similarity, None, UNNEEDED, stands.lead, stands.share))
                    continue
                looked.append(refuse(self._judge.look(read, similarity, entry, stands), request, settings, now))
                best = None if looked[-1].refused_by else looked[-1]
            if best is None and (nearest := next((one for one in looked if one.refused_by in _YIELDING), None)):
                if kept.outweighs(nearest.refused_by):
                    best, check = nearest, nearest.refused_by
                elif refused is None:
                    refused = answer, nearest
            if best is None:
                judged += looked
                del votes[answer]
                continue
            found = _found(kept, best._replace(refused_by=""), check, stands)
            return found, (*judged, *(found.judged if one is best else one for one in looked))
        if refused is None:
            return None, tuple(judged)
        answer, best = refused
        found = _found(kept, best, best.refused_by, standing(answer, answers, every))
        return found, tuple(found.judged if one is best else one for one in judged)


def _found(kept: ScopeKeeper, best: Judged, check: str, stands: Standing) -> Found:
    """Return an answer's entry with what the learner looks at."""
    told = best._replace(margin=stands.lead, agreement=stands.share)
    record = kept.record(best.entry.meaning)
    seen = evidence(best.probability, stands.nearest, stands.votes, stands.rival, record, refused=bool(check))
    return Found(told, seen, check)
