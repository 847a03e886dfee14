"""What verdicts are worth that nobody can give: the model's answer is neither the candidate's nor plainly another.

Owns, for one scope, how often answers as near as that turned out to be wrong where a caller said so, and a test of
whether such verdicts have become more frequent among audits. Where nothing is known of them they count as wrong: an
answer that was changed to one that is worded alike looks just so, and the budget is a promise. Pure, like
`service.cache.learner`. `service.cache.keeper` asks and teaches it.
"""

from typing import Any, Final

from service.cache.learner import ALARM, surprise
from service.cache.verdicts import BANDS

# Of what is known of a band with each verdict: the last hundred count.
_FORGET: Final = 0.99
# Of the usual share among audits: it is that of the last hundred or so. Before any it may be a half.
_FORGET_USUAL: Final = 0.99
_USUAL: Final = (1.0, 2.0)


class Unknown:
    """Verdicts of one scope that nobody can give. `seen` counts them."""

    def __init__(self) -> None:
        self.seen = 0
        self._known = [(0.0, 0.0)] * BANDS
        self._usual = _USUAL
        self._suspicion = 0.0

    def rate(self, band: int | None) -> float:
        """Return the probability that an answer is wrong of which nobody can tell, 0 to 1.

        Args:
            band: how near it is to the model's (`service.cache.verdicts.band`); None: nobody compared them.
        """
        if band is None:
            return max(map(self.rate, range(BANDS)))
        right, wrong = self._known[band]
        return (wrong + 1.0) / (right + wrong + 1.0)

    def told(self, band: int, *, wrong: bool) -> None:
        """Take in what a caller said of an answer of which nobody could have told otherwise."""
        right, bad = self._known[band]
        self._known[band] = (_FORGET * right + (not wrong), _FORGET * bad + wrong)

    def audited(self, *, unknown: bool) -> bool:
        """Return whether audits tell that verdicts are more often unknown than they were.

        Then what callers said of such answers was of others, and counts no longer.
        """
        came, audits = self._usual
        self._suspicion = max(0.0, self._suspicion + surprise(came / audits, float(unknown)))
        self._usual = (_FORGET_USUAL * came + unknown, _FORGET_USUAL * audits + 1.0)
        if self._suspicion < ALARM:
            return False
        self._known, self._usual, self._suspicion = [(0.0, 0.0)] * BANDS, _USUAL, 0.0
        return True

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"seen": self.seen, "known": self._known, "usual": self._usual, "suspicion": self._suspicion}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; what is said of other bands is left aside."""
        self.seen, self._suspicion = int(state["seen"]), float(state["suspicion"])
        came, audits = state["usual"]
        self._usual = float(came), float(audits)
        if len(state["known"]) == BANDS:
            self._known = [(float(right), float(wrong)) for right, wrong in state["known"]]
