"""What a prompt says, read once: words, numbers, names, negations, order, in a form that two prompts are compared in.

Owns `Prepared` and `prepare`; never compares (`index.guard` does) and never raises, whatever the text. Called once for
a request, and for the prompts of the answers near it. Words are interned: what was read of like prompts shares them.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import islice
from sys import intern
from typing import Final

from index.lexicon import (
    GENERIC,
    LANGUAGES,
    NEGATION,
    PRONOUNS,
    RANK,
    STOP,
    UNITS,
    bare,
    is_participle,
    remembered,
    stem,
    weight,
)
from index.text import canonical
from index.times import Timed, timed
from index.tokens import BE, DATE, NAME, NEGATED, NUMBER, PICTURE, PLAIN, SYMBOL, plain, split

PERSONS: Final = {"i": "I", "me": "I", "my": "I", "you": "you", "your": "you"}
"""Who speaks and who is spoken to."""
SELF: Final = "i"
SELVES: Final = frozenset(("i", "me"))
"""Who asks, be it that they do something or that it is done to them: one of those it is about."""
TELLING: Final = 0.3
"""Weight above which a word says something of its own: neither a function word nor filler."""
# Of code and formulas: one sign more or less is another program, and not every sign is a token.
_CODE_SIGNS: Final = frozenset("{}|\\~^<>=")
_CODE_PAIRS: Final = ("&&", "::", "```")
_CALL: Final = re.compile(r"\w\((?!e?s\))|\w\[|\d!")  # and "5!" is no 5
_CALL_SIGNS: Final = frozenset("([!")
_MAYBE_CODE: Final = frozenset("".join(_CODE_PAIRS)) | _CODE_SIGNS | _CALL_SIGNS
# What is asked of the letters themselves: there a capital, a comma or a typo is what it is about.
_OF_LETTERS: Final = re.compile(
    r"\b(?:base ?64|md5|sha-?\d+|rot ?13|checksum|hash of|(?:ascii|unicode|morse) code|url[ -]?encode|anagrams? of"
    r"|(?:is|are) \S+ a palindrome|proofread|capitali[sz]e|punctuate|(?:upper|lower|title|camel|snake)[ -]?case"
    r"|reverse (?:the |this )?(?:string|word|text|sentence)|spell(?:ing of)? \S+|backwards"
    r"|(?:fix|correct|check|find) (?:the |this |my |any |all )*(?:\w+ )?"
    r"(?:spelling|typos?|grammar|punctuation|sentence|text)"
    r"|(?:how many|count|number of) (?:the )?(?:\w+ )?(?:letters?|characters?|vowels?|consonants?|words?|syllables?)"
    r"|(?:first|last) letter|(?:grammatically|spelled|spelt) correct\w*|(?:sentence|word|spelling) correct)\b",
    re.IGNORECASE,
)
# Without one of these there is no need to look.
_MAYBE_LETTERS: Final = frozenset((
    "base", "base64", "md5", "sha", "sha1", "sha256", "sha512", "rot", "rot13", "checksum", "hash", "code", "url",
    "urlencode", "anagram", "anagrams", "palindrome", "proofread", "capitalise", "capitalize", "punctuate", "uppercase",
    "lowercase", "titlecase", "camelcase", "case", "reverse", "spell", "spelling", "spelled", "spelt", "backwards",
    "typo", "typos", "grammar", "punctuation", "sentence", "text", "word", "words", "string", "letter", "letters",
    "character", "characters", "vowel", "vowels", "consonant", "consonants", "syllable", "syllables", "correct",
    "correctly", "grammatically",
))  # fmt: skip
_PLAINLY: Final = (PLAIN, DATE, NEGATED)  # kinds of words that weigh what the lexicon says


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one prompt says. The first four run in parallel, one item a word, in the order of the text.

    `kinds` holds PLAIN, NAME, ... a word; `numbers` stand in their order, each with its unit ("500 usd"); `agent` is
    the place of the agent of a passive ("seen by ANN"), -1 without; `markers` pairs from, to, by, than, before, ...
    with what they stand before, `times` such words with the time they stand before; `telling` holds the stems that say
    something, in order, `spine` each of them once, with `SELF` for who asks; `alternatives` is 1 for a text that says
    "or", -1 for one that says "and", 0 for neither or both; `total` is the sum of `weights`. `verbatim` is "" but for
    what words do not tell, code, formulas and languages without a lexicon: there it is the text, without what is
    certainly no difference.
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
    times: Timed
    pronouns: tuple[str, ...]
    persons: tuple[str, ...]
    telling: tuple[str, ...]
    spine: tuple[str, ...]
    alternatives: int
    total: float
    verbatim: str
    cut: bool


def prepare(text: str) -> Prepared:
    """Read a prompt.

    Args:
        text: anything; canonical text gives the same as the text it was made from, but for cut ones.
    """
    text, cut = plain(text)
    words, marks, more = split(text)
    symbols = ""
    if max(marks, default=PLAIN) >= SYMBOL:
        symbols = "".join(sorted([w for w, k in zip(words, marks, strict=True) if k == SYMBOL]))
        words = [w for w, k in zip(words, marks, strict=True) if k < SYMBOL]
        marks = [k for k in marks if k < SYMBOL]
    read = [_known(w) if k in _PLAINLY else _certain(w, k) for w, k in zip(words, marks, strict=True)]
    weights = tuple([weight for _, weight in read])
    stems = tuple([stem for stem, _ in read])
    telling = tuple([stem for stem, weight in read if weight > TELLING])
    language = _language(text, words, marks)
    return Prepared(
        words=tuple(map(intern, words)),
        stems=stems,
        weights=weights,
        kinds=bytes(marks),
        numbers=_with_units(words, marks),
        symbols=symbols,
        negations=marks.count(NEGATED),
        question=_question(words),
        language=language,
        agent=_agent(words),
        markers=_markers(words, stems, weights),
        times=timed(words, stems, marks),
        pronouns=() if PRONOUNS.isdisjoint(words) else tuple([w for w in words if w in PRONOUNS]),
        persons=() if PERSONS.keys().isdisjoint(words) else tuple([w for w in words if w in PERSONS]),
        telling=telling,
        spine=_spine(words, stems, weights, telling),
        alternatives=("or" in words) - ("and" in words or "both" in words),
        total=sum(weights),
        verbatim=_verbatim(text, words, language),
        cut=cut or more,
    )


@remembered
def _known(word: str) -> tuple[str, float]:
    """Return the stem and the weight of a word that is just a word."""
    return intern(stem(word)), weight(word)


def _certain(word: str, kind: int) -> tuple[str, float]:
    """Return the stem and the weight of a word whose kind says how much it tells."""
    if kind == NUMBER:
        return intern(word), 1.0
    return intern(stem(bare(word) if kind == NAME else word)), 0.0 if kind == PICTURE else 1.0


def _spine(
    words: list[str], stems: tuple[str, ...], weights: tuple[float, ...], telling: tuple[str, ...]
) -> tuple[str, ...]:
    if SELVES.isdisjoint(words):
        once = dict.fromkeys(telling)
        return telling if len(once) == len(telling) else tuple(once)
    each = zip(words, stems, weights, strict=True)
    return tuple(
        dict.fromkeys([SELF if w in SELVES else s for w, s, weight in each if weight > TELLING or w in SELVES])
    )


def _verbatim(text: str, words: list[str], language: str) -> str:
    """Return what a text that words do not tell, or that is about its letters, is compared by, "" for any other."""
    if _is_code(text) or (not _MAYBE_LETTERS.isdisjoint(words) and _OF_LETTERS.search(text)):
        text = canonical(text)  # whose line ends and indents count
        return (text if "\n" in text else " ".join(text.split())).rstrip("?.! ")
    if language == "en":
        return ""
    letters = [" " if unicodedata.category(char)[0] in "PZC" else char for char in text.casefold()]
    return " ".join("".join(letters).split())


def _is_code(text: str) -> bool:
    """Return whether a text holds code or a formula."""
    signs = _MAYBE_CODE.intersection(text)
    if not signs:
        return False
    return (
        not _CODE_SIGNS.isdisjoint(signs)
        or any(pair in text for pair in _CODE_PAIRS)
        or (not _CALL_SIGNS.isdisjoint(signs) and _CALL.search(text) is not None)
    )


def _with_units(words: list[str], kinds: list[int]) -> tuple[str, ...]:
    if NUMBER not in kinds:
        return ()
    found = []
    for place, kind in enumerate(kinds):
        if kind == NUMBER:
            after = _unit(words, place + 1)
            before = UNITS.get(words[place - 1], "") if place else ""
            unit = after or (before if before in CURRENCIES else "")
            found.append(intern(f"{words[place]} {unit}" if unit else words[place]))
    return tuple(found)


def _unit(words: list[str], place: int) -> str:
    """Return the unit that stands at a place: "litres", "sq ft", "degrees Celsius"; "" without one."""
    if place >= len(words):
        return ""
    word = words[place]
    if (power := _BEFORE_UNITS.get(word)) is None:
        return UNITS.get(word, "")
    unit = UNITS.get(words[place + 1], "") if place + 1 < len(words) else ""
    return unit and power + unit


_BEFORE_UNITS: Final = {"degree": "", "degrees": "", "deg": "", "sq": "square ", "square": "square ", "cubic": "cubic "}


CURRENCIES: Final = frozenset(("usd", "inr", "eur", "gbp", "jpy", "krw", "rur", "lira", "btc"))


_HOWTO: Final = re.compile(
    r"\bhow (?:(?:do|can|should|could|would|must|might|may) (?:i|you|one|we|someone|somebody|people|a person)|to)\b"
    r"|\bways? (?:to|of|for)\b|\bmethods? (?:to|of|for)\b"
    r"|\bwhat (?:should|can|could|do|must|would) (?:i|you|one|we|someone|people)\b(?: \w+)? do\b"
)
_HOWTO_PARTS: Final = ("how", "what", "way", "method")  # without one there is none
_ASKS: Final = {"what": "what", "which": "what", "who": "who", "whom": "who", "whose": "who", "why": "why",
                "when": "when", "where": "where", "how": "how"}  # fmt: skip
_MEASURES: Final = frozenset((
    "many", "much", "long", "old", "far", "often", "big", "tall", "fast", "large", "high", "come",
))  # fmt: skip
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
    text = " ".join(words)
    if any(part in text for part in _HOWTO_PARTS) and _HOWTO.search(text):
        return "howto"
    for place, word in enumerate(words):
        if asks := _ASKS.get(word):
            follows = words[place + 1] if place + 1 < len(words) else ""
            if asks == "how" and follows in _MEASURES:
                return "why" if follows == "come" else intern(f"how {follows}")
            return "when" if asks == "what" and follows in ("time", "year", "date") else asks
    return ""


def _agent(words: list[str]) -> int:
    """Return where the agent of the first passive stands ("was SEEN by ..."), -1 without one."""
    if "by" not in words:
        return -1
    for place in range(2, len(words) - 1):
        if words[place] == "by" and is_participle(words[place - 1]):
            return place + 1 if not BE.isdisjoint(words[:place]) else -1
    return -1


# Before these a word says whence, whither, when, by whom or than what: exchanged, they say something else.
_MARKERS: Final = frozenset((
    "from", "to", "into", "by", "than", "before", "after", "until", "since", "over", "under", "against", "without",
    "minus", "past", "upon",
))  # fmt: skip


def _markers(words: list[str], stems: tuple[str, ...], weights: tuple[float, ...]) -> tuple[str, ...]:
    if _MARKERS.isdisjoint(words):
        return ()
    found = []
    for place, word in enumerate(words):
        if word in _MARKERS:
            follows = list(islice((stems[p] for p in range(place + 1, len(words)) if weights[p] > 0), 2))
            if len(follows) > 1 and follows[0] in CURRENCIES and follows[1][0].isdigit():
                del follows[0]  # "$500" is "500 dollars"
            found.append(intern(f"{word} {follows[0] if follows else ''}"))
    return tuple(found)


def _language(text: str, words: list[str], kinds: list[int]) -> str:
    """Return the language a text is in: "en", another that its function words betray, a script, or "" if unknown."""
    if not text.isascii() and (script := _script(text)) != "LATIN":
        return intern(script)
    opening = words[:_OPENING]
    seen = set(opening)
    english = len(seen & _ENGLISH)
    other, name = 0, ""
    if not seen.isdisjoint(_FOREIGN):
        other, name = max([(len(seen & known), name) for name, known in LANGUAGES.items()])
    if other > english:
        return name
    if english > other + 1:
        return "en"
    # Names and numbers are of any language.
    telling = [w for w, kind in zip(opening, kinds, strict=False) if kind in (PLAIN, NEGATED)]
    known = sum([word in RANK or word in _ENGLISH or stem(word) in RANK for word in telling])
    least = _SURE if other == english else _LIKELY
    return "en" if known >= least * len(telling) else ""


def _script(text: str) -> str:
    """Return the script of most letters."""
    counts: dict[str, int] = {}
    for char in text[:400]:
        if char.isalpha():
            script = "LATIN" if char < "\u0250" else unicodedata.name(char, "?").split(" ", 1)[0]
            counts[script] = counts.get(script, 0) + 1
    if "HIRAGANA" in counts or "KATAKANA" in counts:
        return "JAPANESE"
    return max(counts, key=counts.__getitem__) if counts else "LATIN"


_ENGLISH: Final = frozenset(word for word in STOP | GENERIC | PRONOUNS | NEGATION if len(word) > 1) | {
    "i", "describe", "define", "summarise", "summarize", "compare", "write", "recipe", "definition", "difference",
}  # fmt: skip
_FOREIGN: Final = frozenset[str]().union(*LANGUAGES.values())
# Of the words that are no names, those known to be English: less where a function word says so too.
_SURE: Final = 0.65
_LIKELY: Final = 0.35
