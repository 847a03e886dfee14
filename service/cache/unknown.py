"""What a verdict is worth that nobody can give: the model's answer is neither the candidate's nor plainly another.

As a rule nothing: models word an answer anew each time. But where audits used to tell and more and more of them do not,
answers have probably changed to others that are worded alike, and the texts cannot show it. From then on such verdicts
count as wrong, until no more of them come than before: the budget is a promise. Pure, and one for each scope, like
`service.cache.learner`. `service.cache.keeper` asks and teaches it.
"""

from typing import Any, Final

from service.cache.learner import ALARM, surprise

# The usual share among audits is that of the last hundred or so. Before any it may be a half.
_FORGET: Final = 0.99
_USUAL: Final = (1.0, 2.0)
# After a change it is a half for twenty audits, so that a few that tell do not clear it.
_AGAIN: Final = (10.0, 20.0)
# Above what it was by less than this a share has not risen.
_ABOUT: Final = 0.1


class Unknown:
    """Verdicts of one scope that nobody can give, among its audits."""

    def __init__(self) -> None:
        self._usual = _USUAL  # how many came, of how many audits; older ones count less
        self._suspicion = 0.0
        self._calm = _USUAL[0] / _USUAL[1]  # their share when nothing was suspected the last time
        self._suspect = False

    @property
    def suspect(self) -> bool:
        """Whether such a verdict is to be taken for a wrong answer."""
        return self._suspect

    def audited(self, *, unknown: bool) -> bool:
        """Take in an audit; return whether these tell that verdicts have become unknown more often than they were."""
        came, audits = self._usual
        self._usual = (_FORGET * came + unknown, _FORGET * audits + 1.0)
        share = self._usual[0] / self._usual[1]
        if self._suspect:
            self._suspect = share > self._calm + _ABOUT
            return False
        self._suspicion = max(0.0, self._suspicion + surprise(came / audits, seen=unknown))
        if not self._suspicion:
            self._calm = share
        if self._suspicion < ALARM:
            return False
        # Counted anew: what came before the change would hide how many come now.
        self._usual, self._suspicion, self._suspect = _AGAIN, 0.0, True
        return True

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {
            "usual": self._usual,
            "suspicion": self._suspicion,
            "calm": self._calm,
            "suspect": self._suspect,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        came, audits = state["usual"]
        self._usual = float(came), float(audits)
        self._suspicion, self._calm = float(state["suspicion"]), float(state["calm"])
        self._suspect = bool(state["suspect"])
