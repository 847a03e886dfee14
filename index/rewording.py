"""The same question in other words: what a wording moves in a text's features says nothing of what is asked.

People put one question in many ways, and a few references cannot show that the ways do not matter. So they are shown:
each reference is put into the frames below, and the directions in which its surface features move are shrunk before
anything is learned from them. Within-class covariance normalisation (Hatch et al. 2006, "Within-class covariance
normalization for SVM-based speaker recognition"), with the rewordings of a text as its class. English, as the frames
are; other languages lose nothing but what a frame adds. Called by `index.fitting`, at build time only.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from index.ridge import SMALL, Floats

# Questions and requests, polite and curt, short and long.
FRAMES: Final = (
    "{}",
    "how to {}",
    "How do I {}?",
    "How could one {}?",
    "What is the best way to {}?",
    "What do I have to do to {}?",
    "Which steps does it take to {}?",
    "Can you tell me how to {}?",
    "Could you please explain how to {}?",
    "Please tell me what to do in order to {}.",
    "I want to {}. What should I do?",
    "If I wanted to {}, where would I begin?",
    "To {}, what do I need?",
    "I would like to know how to {}",
)
_OPENING: Final = re.compile(
    r"""^\W*(?:
        how\s(?:do|does|can|could|should|would|to)(?:\s(?:i|we|you|one|someone|people))? |
        what(?:\sis|'?s)\s(?:the|a)\s(?:best|good|easiest)\sway\s(?:to|of) |
        (?:can|could|would)\syou(?:\splease)?(?:\s(?:tell\sme|explain))?(?:\show\sto)? |
        (?:i\s(?:want|need|would\slike)|i'd\slike)\sto | please | what\s(?:is|are) | why\s(?:is|are|do|does)
    )\s+""",
    re.IGNORECASE | re.VERBOSE,
)
# A wording's covariance counts as much as this beside that of the references: 1 to 10 fare alike on MMLU; 10 costs .01
# of APGR on GSM8K, and 1 keeps one decision in a hundred fewer through a paraphrase.
_WEIGHT: Final = 3.0
# As many references show what a wording does: it moves their features nearly alike.
_SHOWN: Final = 500


def reworded(text: str) -> list[str]:
    """Return a text in every frame, in place of the opening and the closing sign that it has."""
    inner = _OPENING.sub("", text, count=1).rstrip("?.! ") or text
    return [frame.replace("{}", inner) for frame in FRAMES]


def steadying(texts: Sequence[str], features: Callable[[Sequence[str]], Floats]) -> Floats:
    """Return the matrix (p, p) by which features, standardised, are shrunk as far as a wording moves them.

    The mean squared length of the texts' features stays what it is.

    Args:
        texts: references in a random order, at least one.
        features: standardised features of texts, shape (texts, p).
    """
    own = features(texts).astype(np.float64)
    moved = np.zeros((own.shape[1], own.shape[1]))
    shown = texts[:_SHOWN]
    for text in shown:
        ways = features(reworded(text)).astype(np.float64)
        ways -= ways.mean(axis=0)
        moved += ways.T @ ways / (len(ways) - 1)
    values, directions = np.linalg.eigh(moved / len(shown))
    shrunk = (directions / np.sqrt(1 + _WEIGHT * np.maximum(values, 0))) @ directions.T
    size, kept = float((own**2).sum()), float(((own @ shrunk) ** 2).sum())
    return np.asarray(shrunk * (np.sqrt(size / kept) if kept > SMALL else 1), np.float32)
