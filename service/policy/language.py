"""Which language a text is in. The only user of py3langid, which is loaded with the first policy that asks for it.

langid.py's naive Bayes over byte n-grams (Lui & Baldwin 2012): 10 µs for a sentence, offline, 97 languages. Short texts
say little, so what it is not sure of is "und".
"""

from functools import cache
from typing import Any, Final

UNKNOWN: Final = "und"
_SURE: Final = 0.5
_LOOKED_AT: Final = 1_000  # characters: more do not make it surer


def language(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, "und" where it is not clear."""
    code, probability = _identifier().classify(text[:_LOOKED_AT])
    return str(code) if probability >= _SURE else UNKNOWN


def prepare() -> None:
    """Load what knows languages, which takes a second or two: no decision should have to wait for it."""
    _identifier()


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
