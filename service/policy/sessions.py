"""Conversations: escalate and stay.

A conversation keeps its model, moves up when a turn asks for more, and moves down only when that is worth the switch.
State is one model for each conversation, bounded in number and time.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.policy.followups import means_nothing_alone
from service.policy_settings import SessionSettings
from service.requests import Estimate
from service.routing.choose import Ranking

Key = tuple[str, str]
"""Scope and conversation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The model of a conversation's last turn, and when that was (seconds since the epoch)."""

    model: str
    at: float


class Sessions:
    """What is remembered of conversations.

    Args:
        settings: of sessions.
        remember: called with a key and what is known of it, to keep it across restarts; None: forgotten.
    """

    def __init__(self, settings: SessionSettings, remember: Callable[[Key, Turn | None], None]) -> None:
        self._settings, self._remember = settings, remember
        self._turns: OrderedDict[Key, Turn] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def load(self, turns: Mapping[Key, Turn]) -> None:
        """Take in what was remembered before a restart."""
        self._turns = OrderedDict(sorted(turns.items(), key=lambda item: item[1].at))

    def get(self, key: Key, now: float) -> Turn | None:
        """Return the last turn of a conversation, unless it has rested for too long."""
        turn = self._turns.get(key)
        return turn if turn is not None and now - turn.at <= self._settings.expires_s else None

    def put(self, key: Key, model: str, now: float) -> None:
        """Remember the model of a conversation's turn."""
        self._turns[key] = turn = Turn(model, now)
        self._turns.move_to_end(key)
        self._remember(key, turn)
        for old in self._past(now):
            del self._turns[old]
            self._remember(old, None)

    def _past(self, now: float) -> list[Key]:
        """Return who may be forgotten: one too many, or a few that rested for too long."""
        past: list[Key] = []
        for key, turn in self._turns.items():
            if len(self._turns) - len(past) <= self._settings.keep and now - turn.at <= self._settings.expires_s:
                break
            past.append(key)
            if len(past) == 4:  # noqa: PLR2004 - more come than go: it never falls behind, and no one decision pays
                break
        return past


def stay(
    ranking: Ranking, last: str, text: str, worth: Callable[[Estimate], float], switching_cost: float, *, known: bool
) -> tuple[Ranking, str]:
    """Return the ranking as a conversation would have it, and a word on why ("" where nothing changes).

    Args:
        ranking: of this turn alone, with at least one model.
        last: the model of the turn before.
        text: of this turn.
        worth: utility of a model.
        switching_cost: what a cheaper model must gain, in points of utility.
        known: whether the estimates are about this prompt.
    """
    best = ranking.models[0]
    current = next((e for e in ranking.models if e.model == last), None)
    if current is None:
        return ranking, f"the conversation's model {last} is not feasible now"
    if current is best:
        return ranking, ""
    why = ""
    if not known:
        why = "nothing is known of this turn"
    elif means_nothing_alone(text):
        why = "this turn means nothing alone"
    elif best.cost_usd > current.cost_usd:
        return ranking, f"escalates from {last}"
    elif (gain := worth(best) - worth(current)) <= switching_cost:
        why = f"{best.model} would gain {gain:.3f}, and a switch costs {switching_cost:g}"
    return (ranking.led_by(last), f"stays with {last}: {why}") if why else (ranking, f"changes down from {last}")
