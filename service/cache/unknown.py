"""What a verdict is worth that nobody can give: the model's answer is neither the candidate's nor plainly another.

Where models word an answer anew each time, nothing: what is right and what is wrong look alike then. But where audits
nearly always tell, answers are the same text when they are right, and one that is not is wrong. And where more and more
audits do not tell that did, answers have changed to others that are worded alike. The budget is a promise, so such
verdicts count as wrong there. Pure, and one for each scope, like `service.cache.learner`. `service.cache.keeper` asks
and teaches it.
"""

from typing import Any, Final

from service.cache.learner import surprise

# The usual share among audits is that of the last hundred or so. Before any it may be a half.
_FORGET: Final = 0.99
_USUAL: Final = (1.0, 2.0)
# With each audit, how much of the way what it was some dozens of audits ago follows what it is.
_BEHIND: Final = 0.02
# After a change it is taken to be high, as if twenty audits had said so: a few that tell do not clear it.
_AGAIN: Final = (16.0, 20.0)
# A false alarm takes at least e to the power of it audits, in the mean: 1,100, which come of some 25,000 requests. The
# test of `service.cache.learner` asks for more, since it looks at all verdicts, not only at those of audits.
_ALARM: Final = 7.0
# Fewer than these, and audits nearly always tell.
_FEW: Final = 0.2
# Above what it was by less than this a share has not risen.
_ABOUT: Final = 0.1


class Unknown:
    """Verdicts of one scope that nobody can give, among its audits."""

    def __init__(self) -> None:
        self._usual = _USUAL  # how many came, of how many audits; older ones count less
        self._suspicion = 0.0
        self._calm = _USUAL[0] / _USUAL[1]  # their share as it was some dozens of audits ago
        self._risen = False

    @property
    def wrong(self) -> bool:
        """Whether such a verdict is to be taken for a wrong answer."""
        return self._risen or self._share < _FEW

    @property
    def _share(self) -> float:
        return self._usual[0] / self._usual[1]

    def audited(self, *, unknown: bool) -> bool:
        """Take in an audit; return whether these tell that verdicts have become unknown more often than they were."""
        expected, (came, audits) = self._share, self._usual
        self._usual = (_FORGET * came + unknown, _FORGET * audits + 1.0)
        if self._risen:
            self._risen = self._share > self._calm + _ABOUT
            return False
        self._suspicion = max(0.0, self._suspicion + surprise(expected, seen=unknown))
        if self._suspicion < _ALARM:
            self._calm += _BEHIND * (self._share - self._calm)
            return False
        # Counted anew: what came before the change would hide how many come now.
        self._usual, self._suspicion, self._risen = _AGAIN, 0.0, True
        return True

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"usual": self._usual, "suspicion": self._suspicion, "calm": self._calm, "risen": self._risen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        came, audits = state["usual"]
        self._usual = float(came), float(audits)
        self._suspicion, self._calm = float(state["suspicion"]), float(state["calm"])
        self._risen = bool(state["risen"])
