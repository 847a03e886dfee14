"""Whether a candidate's answer would have been right, by what a model answered in its place.

Owns the rules; embeds nothing itself. What a caller says counts most, then equal texts, then how near the two answers
are; between near and far there is a band in which nothing is concluded. Called by `service.lessons`.
"""

from typing import Final

from index.guard import compare
from index.text import content_digest
from index.wording import prepare

# Cosines of two answers' embeddings: at least, and at most.
_SAME: Final = 0.92
_OTHER: Final = 0.6
COMPARED: Final = 4_000
"""Characters of an answer that are embedded to compare it: more does not fit the encoder's window."""
# How often such a verdict is wrong, at the most: judges are not perfect, and models may say the same for two things.
DOUBT_SAID: Final = 0.05
DOUBT_EQUAL: Final = 0.001


def plain_verdict(equivalent: bool | None, answer: str, candidate: bytes) -> bool | None:  # noqa: FBT001 - as reported
    """Return whether the candidate's answer is right, None where it takes a closer look.

    Args:
        equivalent: what the caller says, if it says anything.
        answer: what the model said.
        candidate: digest of what the cache would have said.
    """
    if equivalent is not None:
        return equivalent
    return True if content_digest(answer) == candidate else None


def near_verdict(cosine: float, answer: str, candidate: str) -> bool | None:
    """Return whether the candidate's answer is right by how near the two answers are, None where nobody can tell.

    Args:
        cosine: of the two answers' embeddings.
        answer: what the model said.
        candidate: what the cache would have said.
    """
    if cosine <= _OTHER:
        return False
    if cosine < _SAME or compare(prepare(answer), prepare(candidate)).refused:
        return None
    return True


def doubt(error: float, *, said: bool) -> float:
    """Return the probability that an answer is wrong though the verdict was that it is right.

    Args:
        error: what the model had said, 0 to 1.
        said: the caller said so; else the texts are equal.
    """
    lies = DOUBT_SAID if said else DOUBT_EQUAL
    wrong, right = error * lies, (1.0 - error) * (1.0 - lies)
    return wrong / (wrong + right)
