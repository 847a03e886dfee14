"""What a prompt says, read once: words, numbers, names, negations, order, in a form that two prompts are compared in.

Owns `Prepared` and `prepare`; never compares (`index.guard` does) and never raises, whatever the text. Called once for
an answer when it is stored and once for each request. Words are interned: answers to like prompts share them.
"""

# ruff: noqa: PLR2004, RUF001 - lengths that tell words from marks; the characters people type for others

import re
import unicodedata
from dataclasses import dataclass
from sys import intern
from typing import Final

from index.lexicon import (
    CONTRACTIONS,
    DATES,
    FIRST_NAMES,
    GENERIC,
    LANGUAGES,
    MONTHS,
    MULTIPLIERS,
    NEGATION,
    NUMBER_WORDS,
    PLACES,
    PRONOUNS,
    STOP,
    UNITS,
    is_participle,
    stem,
    weight,
)

LONGEST: Final = 4_096
"""Characters that are read. A longer text is marked `cut`: what follows could say anything."""
TELLING: Final = 0.3
"""Weight above which a word says something of its own: neither a function word nor filler."""

PLAIN, NAME, NUMBER, DATE, NEGATED, SYMBOL, IGNORED = range(7)

# Letters with inner apostrophes (and C++, C#, U.S.), numbers with inner separators, signs that mean something, ends
# of sentences. Scripts written without spaces come one character at a time, or a sentence would be a single word.
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN: Final = re.compile(
    rf"\d+(?:[.,:/\-]\d+)*|[A-Za-z](?:\.[A-Za-z])+\b|[{_UNSPACED}]"
    rf"|[^\W\d_{_UNSPACED}]+(?:'[^\W\d_{_UNSPACED}]+)*(?:\+\+|#)?|[%$€£¥₹°+*=<>^×÷]|(?<=\s)[-/](?=\s)|[.?!\n]"
)
_GROUPED: Final = re.compile(r"(?<=\d),(?=\d{2,3}(?:\D|$))")
_QUOTES: Final = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"'})
_COUNTRIES: Final = {"US": "usa", "U.S": "usa", "U.S.A": "usa", "U.K": "uk"}  # "us" is another word
_RARE: Final = 0.9  # of a weight: rank 5,000, where in a title a word is more often a name than not
_ENDS: Final = frozenset(".?!\n")
_CLITICS: Final = frozenset(("s", "d", "ll", "ve", "re", "m"))
_STEMS_OF_NOT: Final = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_BE: Final = frozenset(("is", "are", "was", "were", "be", "been", "being", "am", "get", "got", "gets"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one prompt says. The first four run in parallel, one item a word, in the order of the text.

    `kinds` holds PLAIN, NAME, ... a word; `numbers` stand in their order, each with its unit ("500 usd"); `agent` is
    the place of the agent of a passive ("seen by ANN"), -1 without; `markers` pairs from, to, by, than, before, ...
    with what they stand before; `telling` holds the stems that say something, in order; `total` is the sum of
    `weights`.
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    weights: tuple[float, ...]
    kinds: bytes
    numbers: tuple[str, ...]
    symbols: str
    negations: int
    question: str
    language: str
    agent: int
    markers: tuple[str, ...]
    pronouns: tuple[str, ...]
    telling: tuple[str, ...]
    total: float
    cut: bool


_Token = tuple[str, bool, bool]  # the word, whether it has a capital, whether it opens a sentence


def prepare(text: str) -> Prepared:
    """Read a prompt.

    Args:
        text: anything; canonical text gives the same as the text it was made from, but for cut ones.
    """
    cut = len(text) > LONGEST
    plain = _plain(text[:LONGEST])
    tokens = _tokens(plain)
    kinds = _kinds(tokens)
    words, marks = _numbers([token[0] for token in tokens], kinds)
    symbols = "".join(sorted(w for w, k in zip(words, marks, strict=True) if k == SYMBOL))
    words = [w for w, k in zip(words, marks, strict=True) if k < SYMBOL]
    marks = [k for k in marks if k < SYMBOL]
    weights = tuple(1.0 if k in (NAME, NUMBER) else weight(w) for w, k in zip(words, marks, strict=True))
    stems = tuple(intern(w if k == NUMBER else stem(w)) for w, k in zip(words, marks, strict=True))
    return Prepared(
        words=tuple(map(intern, words)),
        stems=stems,
        weights=weights,
        kinds=bytes(marks),
        numbers=_with_units(words, marks),
        symbols=symbols,
        negations=marks.count(NEGATED),
        question=_question(words),
        language=_language(plain, words),
        agent=_agent(words),
        markers=_markers(words, stems, weights),
        pronouns=tuple(w for w in words if w in PRONOUNS),
        telling=tuple(s for s, w in zip(stems, weights, strict=True) if w > TELLING),
        total=sum(weights),
        cut=cut,
    )


def _plain(text: str) -> str:
    if text.isascii():
        return text.replace("`", "'")
    return unicodedata.normalize("NFKC", text.translate(_QUOTES)).translate(_QUOTES)


def _tokens(text: str) -> list[_Token]:
    """Split into casefolded words, contractions written out; the ends of sentences are not kept."""
    found: list[_Token] = []
    initial = True
    for token in _TOKEN.findall(text):
        if token in _ENDS:
            initial = True
            continue
        word, capital = token.casefold(), token[0].isupper()
        if "'" in word:
            word, negated = _expand(word)
            if word:
                found.append((word, capital, initial))
            if negated:
                found.append(("not", False, False))
        elif token in _COUNTRIES:
            found.append((_COUNTRIES[token], True, initial))
        elif (full := CONTRACTIONS.get(word)) is not None:
            found += ((part, False, False) for part in full)
        else:
            found.append((word if word[0].isdigit() else word.replace(".", ""), capital, initial))
        initial = False
    return found


def _expand(word: str) -> tuple[str, bool]:
    """Return a word without what hangs on its apostrophe, and whether that was "not"."""
    if word.endswith("n't"):
        head = word[:-3]
        return _STEMS_OF_NOT.get(head, head), True
    head, _, tail = word.rpartition("'")
    return (head if tail in _CLITICS else head + tail).replace("'", ""), False


def _kinds(tokens: list[_Token]) -> list[int]:
    """Say for each word whether it is a name, a number, a date, a negation, a sign or just a word."""
    telling = [t for t in tokens if t[0].isalpha() and t[0] not in STOP and not t[2]]
    # In A Title Or A SHOUT capitals say nothing.
    titled = sum(t[1] for t in telling) > 3 and all(t[1] for t in telling)
    return [_kind(tokens, place, titled=titled) for place in range(len(tokens))]


def _kind(tokens: list[_Token], place: int, *, titled: bool) -> int:  # noqa: PLR0911 - one reason a line
    word, capital, initial = tokens[place]
    if word[0].isdigit() or word in NUMBER_WORDS:
        return NUMBER
    if not word[0].isalpha():
        return PLAIN if word in UNITS else _sign(tokens, place)
    if word in NEGATION:
        return NEGATED
    if word in PLACES or (capital and word in FIRST_NAMES):
        return NAME
    if word in DATES and (word not in MONTHS or len(word) > 3 or (capital and not initial)):
        return DATE
    if not capital or word in STOP or word in UNITS:
        return PLAIN
    if titled:
        return NAME if weight(word) > _RARE else PLAIN
    if not initial:
        return NAME
    follows = tokens[place + 1] if place + 1 < len(tokens) else ("", False, False)
    return NAME if follows[1] and not follows[2] and follows[0] not in STOP and word not in GENERIC else PLAIN


def _sign(tokens: list[_Token], place: int) -> int:
    """Return SYMBOL for a sign between two amounts or letters: an operation, and not decoration."""
    around = tokens[max(place - 1, 0) : place + 2]
    operands = sum(t[0][0].isdigit() or (len(t[0]) == 1 and t[0].isalpha()) for t in around)
    return SYMBOL if operands == 2 else IGNORED


def _numbers(words: list[str], kinds: list[int]) -> tuple[list[str], list[int]]:
    """Write numbers one way: "15k", "15,000" and "fifteen thousand" are 15000."""
    out: list[str] = []
    marks: list[int] = []
    factored = True
    for word, kind in zip(words, kinds, strict=True):
        if kind == NUMBER:
            out.append(_decimal(NUMBER_WORDS.get(word, word)))
            marks.append(NUMBER)
            factored = False
        elif not factored and word in MULTIPLIERS and (value := _times(out[-1], MULTIPLIERS[word])):
            out[-1] = value
        else:
            out.append(word)
            marks.append(kind)
            factored = True
    return out, marks


def _decimal(number: str) -> str:
    plain = "".join(str(unicodedata.digit(c, 0)) if c.isdigit() else c for c in number)
    plain = _GROUPED.sub("", plain)
    whole, dot, rest = plain.partition(".")
    if dot and whole.isdigit() and rest.isdigit():
        plain = whole + ("." + rest.rstrip("0") if rest.rstrip("0") else "")
    return plain.lstrip("0") or "0" if plain.isdigit() and len(plain) < 4 else plain


def _times(number: str, factor: int) -> str:
    """Return the product as a decimal, "" where the number is a date, a range or too long to mean an amount."""
    if len(number) > 15:
        return ""
    try:
        return _decimal(f"{float(number) * factor:.6f}")
    except ValueError:
        return ""


def _with_units(words: list[str], kinds: list[int]) -> tuple[str, ...]:
    found = []
    for place, kind in enumerate(kinds):
        if kind == NUMBER:
            after = UNITS.get(words[place + 1], "") if place + 1 < len(words) else ""
            before = UNITS.get(words[place - 1], "") if place else ""
            unit = after or (before if before in CURRENCIES else "")
            found.append(intern(f"{words[place]} {unit}" if unit else words[place]))
    return tuple(found)


CURRENCIES: Final = frozenset(("usd", "inr", "eur", "gbp", "jpy"))


_HOWTO: Final = re.compile(
    r"\bhow (?:(?:do|can|should|could|would|must|might|may) (?:i|you|one|we|someone|somebody|people|a person)|to)\b"
    r"|\bways? (?:to|of|for)\b|\bmethods? (?:to|of|for)\b"
    r"|\bwhat (?:should|can|could|do|must|would) (?:i|you|one|we|someone|people)\b(?: \w+)? do\b"
)
_ASKS: Final = {"what": "what", "which": "what", "who": "who", "whom": "who", "whose": "who", "why": "why",
                "when": "when", "where": "where", "how": "how"}  # fmt: skip
_MEASURES: Final = frozenset(("many", "much", "long", "old", "far", "often", "big", "tall", "fast", "large", "high"))
_DECIDES: Final = frozenset((
    "is", "are", "was", "were", "do", "does", "did", "can", "could", "should", "would", "will", "has", "have", "had",
    "am", "may", "might", "must",
))  # fmt: skip
_OPENING: Final = 40


def _question(words: list[str]) -> str:
    """Return what kind of thing is asked for: howto, how, how many, what, who, why, when, where, yes, or ""."""
    words = words[:_OPENING]
    if not words:
        return ""
    if words[0] in _DECIDES:
        return "yes"
    if _HOWTO.search(" ".join(words)):
        return "howto"
    for place, word in enumerate(words):
        if asks := _ASKS.get(word):
            follows = words[place + 1] if place + 1 < len(words) else ""
            if asks == "how" and follows in _MEASURES:
                return intern(f"how {follows}")
            return "when" if asks == "what" and follows in ("time", "year", "date") else asks
    return ""


def _agent(words: list[str]) -> int:
    """Return where the agent of the first passive stands ("was SEEN by ..."), -1 without one."""
    for place in range(2, len(words) - 1):
        if words[place] == "by" and is_participle(words[place - 1]):
            return place + 1 if not _BE.isdisjoint(words[:place]) else -1
    return -1


# Before these a word says whence, whither, when, by whom or than what: exchanged, they say something else.
_MARKERS: Final = frozenset((
    "from", "to", "into", "by", "than", "before", "after", "until", "since", "over", "under", "against", "without",
    "minus",
))  # fmt: skip


def _markers(words: list[str], stems: tuple[str, ...], weights: tuple[float, ...]) -> tuple[str, ...]:
    found = []
    for place, word in enumerate(words):
        if word in _MARKERS:
            follows = next((stems[p] for p in range(place + 1, len(words)) if weights[p] > 0), "")
            found.append(intern(f"{word} {follows}"))
    return tuple(found)


def _language(text: str, words: list[str]) -> str:
    """Return the script of most letters, and for Latin letters the language its function words betray, or ""."""
    if text.isascii():
        letters = "LATIN"
    else:
        counts: dict[str, int] = {}
        for char in text[:400]:
            if char.isalpha():
                script = unicodedata.name(char, "?").split(" ", 1)[0]
                counts[script] = counts.get(script, 0) + 1
        letters = max(counts, key=counts.__getitem__) if counts else "LATIN"
        if "HIRAGANA" in counts or "KATAKANA" in counts:
            letters = "JAPANESE"
    if letters != "LATIN":
        return intern(letters)
    seen = set(words[:_OPENING])
    hits = sorted(((len(seen & known), name) for name, known in LANGUAGES.items()), reverse=True)
    return hits[0][1] if hits[0][0] >= 2 and hits[0][0] > hits[1][0] else ""
