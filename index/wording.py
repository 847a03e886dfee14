"""What a prompt says, read once: words, numbers, names, negations, order, in a form that two prompts are compared in.

Owns `Prepared` and `prepare`; never compares (`index.guard` does) and never raises, whatever the text. Called once for
an answer when it is stored and once for each request. Words are interned: answers to like prompts share them.
"""

# ruff: noqa: PLR2004, RUF001 - lengths that tell words from marks; the characters people type for others

import re
import unicodedata
from collections.abc import Iterable
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
    RANK,
    STOP,
    UNITS,
    is_participle,
    stem,
    weight,
)

LONGEST: Final = 4_096
"""Characters that are read. A longer text is marked `cut`: what follows could say anything."""
MOST: Final = 512
"""Words that are read; of more, too, the text is `cut`. The default encoder's window is half of it."""
TELLING: Final = 0.3
"""Weight above which a word says something of its own: neither a function word nor filler."""

PLAIN, NAME, NUMBER, DATE, NEGATED, LITERAL, PICTURE, SYMBOL, IGNORED = range(9)

# Words with digits in them, letters with inner apostrophes (and C++, C#, U.S.), numbers with their sign and inner
# separators, signs that mean something, pictures, ends of sentences.
_TOKEN: Final = re.compile(
    r"(?:(?<![^\s(=,])-)?\d+(?:[.,:/\-]\d+)*|[A-Za-z](?:\.[A-Za-z])+\b|[^\W\d_]+\d\w*(?:[.\-]\d+)*"
    r"|[^\W\d_]+(?:'[^\W\d_]+)*(?:\+\+|#)?|[%$°+*×÷\u00a2-\u00a5\u20a0-\u20cf]|(?<=\s)[-/](?=\s)"
    r"|[\u2190-\u2bff\U0001f000-\U0001faff]|[.?!\n\ue000]"
)
# Addresses, paths, names of files and of variables: compared as they stand.
_LITERAL: Final = re.compile(r"\S*(?:[@\\_]|://|/\S*/)\S*|(?:~?/|--?)[^\W\d]\S*|[\w\-]{2,}\.[a-z]\w{1,5}")
_EDGES: Final = ".,;:?!'\"()[]{}<>"
# Of code and formulas: one sign more or less is another program, and not every sign is a token.
_CODE: Final = re.compile(r"[{}|\\~^<>=]|&&|::|\w\((?!e?s\))|\w\[|```")
_ROMAN: Final = {
    "II": "2",
    "III": "3",
    "IV": "4",
    "VI": "6",
    "VII": "7",
    "VIII": "8",
    "IX": "9",
    "XI": "11",
    "XII": "12",
}
_GROUPED: Final = re.compile(r"(?<=\d),(?=\d{2,3}(?:\D|$))")
_QUOTES: Final = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"',
                                "–": "-", "‑": "-", "−": "-"})  # fmt: skip
_MAYBE_LITERAL: Final = re.compile(r"[@\\_/]|\w\.[a-z]|(?<!\S)--?[^\W\d]")
_CHUNK: Final = re.compile(r"\S+")
_HELD: Final = "\ue000"  # stands for a literal while the rest is split; of no use in a text
_PICTURES: Final = 0x2190
_CURRENCY: Final = re.compile(r"(rs|inr|usd|eur|gbp)(\d+)")
_ORDINAL: Final = frozenset(("st", "nd", "rd", "th"))
_COUNTED: Final = frozenset((
    "type", "level", "class", "phase", "part", "chapter", "number", "stage", "version", "option", "plan", "step",
    "grade", "season", "episode", "volume", "page", "question", "least", "most", "than",
))  # fmt: skip
_EACH: Final = frozenset(("a", "per", "each", "every", "one"))
_COUNTRIES: Final = {"US": "usa", "U.S": "usa", "U.S.A": "usa", "U.K": "uk"}  # "us" is another word
_RARE: Final = 0.9  # of a weight: rank 5,000, where in a title a word is more often a name than not
_ENDS: Final = frozenset(".?!\n")
_CLITICS: Final = {"d": "would", "ll": "will", "ve": "have", "re": "are", "m": "am"}
_BEFORE_IS: Final = frozenset(
    ("what", "who", "where", "when", "why", "how", "it", "that", "there", "here", "he", "she")
)
_STEMS_OF_NOT: Final = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_BE: Final = frozenset(("is", "are", "was", "were", "be", "been", "being", "am", "get", "got", "gets"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one prompt says. The first four run in parallel, one item a word, in the order of the text.

    `kinds` holds PLAIN, NAME, ... a word; `numbers` stand in their order, each with its unit ("500 usd"); `agent` is
    the place of the agent of a passive ("seen by ANN"), -1 without; `markers` pairs from, to, by, than, before, ...
    with what they stand before; `telling` holds the stems that say something, in order; `total` is the sum of
    `weights`. `verbatim` is "" but for what words do not tell, code, formulas and languages without a lexicon: there it
    is the text, without what is certainly no difference.
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
    verbatim: str
    cut: bool


_Token = tuple[str, bool, bool]  # the word, whether it has a capital, whether it opens a sentence


def prepare(text: str) -> Prepared:
    """Read a prompt.

    Args:
        text: anything; canonical text gives the same as the text it was made from, but for cut ones.
    """
    plain = _plain(text[:LONGEST])
    tokens = _tokens(plain[:LONGEST])
    cut = len(text) > LONGEST or len(plain) > LONGEST or len(tokens) > MOST
    tokens = tokens[:MOST]
    kinds = _kinds(tokens)
    words, marks = _numbers([token[0] for token in tokens], kinds)
    symbols = "".join(sorted(w for w, k in zip(words, marks, strict=True) if k == SYMBOL))
    words = [w for w, k in zip(words, marks, strict=True) if k < SYMBOL]
    marks = [k for k in marks if k < SYMBOL]
    weights = tuple(_weight(w, k) for w, k in zip(words, marks, strict=True))
    stems = tuple(intern(w if k == NUMBER else stem(w)) for w, k in zip(words, marks, strict=True))
    language = _language(plain, words, marks)
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
        pronouns=tuple(w for w in words if w in PRONOUNS),
        telling=tuple(s for s, w in zip(stems, weights, strict=True) if w > TELLING),
        total=sum(weights),
        verbatim=_verbatim(plain, language),
        cut=cut,
    )


def _weight(word: str, kind: int) -> float:
    return 1.0 if kind in (NAME, NUMBER, LITERAL) else 0.0 if kind == PICTURE else weight(word)


def _plain(text: str) -> str:
    if text.isascii():
        return text.replace("`", "'")
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).translate(_QUOTES)
    return text.replace(_HELD, " ")


def _verbatim(text: str, language: str) -> str:
    """Return what a text that words do not tell is compared by, "" for one that they do."""
    if _CODE.search(text):
        return text.strip().rstrip("?.! ") if "\n" in text else " ".join(text.split()).rstrip("?.! ")
    if language == "en":
        return ""
    letters = [" " if unicodedata.category(char)[0] in "PZC" else char for char in text.casefold()]
    return " ".join("".join(letters).split())


def _tokens(text: str) -> list[_Token]:
    """Split into casefolded words, contractions written out; the ends of sentences are not kept."""
    held: list[str] = []
    if _MAYBE_LITERAL.search(text):
        text = _CHUNK.sub(lambda chunk: _hold(chunk[0], held), text)
    literals = iter(held)
    found: list[_Token] = []
    initial = True
    for token in _TOKEN.findall(text):
        if token in _ENDS:
            initial = True
        elif token == _HELD:
            found.append((_HELD + next(literals), False, False))
            initial = False
        elif token not in _ORDINAL or not found or not found[-1][0][-1].isdigit():
            found += _written_out(token, initial=initial)
            initial = False
    return found


def _written_out(token: str, *, initial: bool) -> Iterable[_Token]:
    """Return the words a token stands for."""
    word, capital = token.casefold(), token[0].isupper()
    if "'" in word:
        word, rest = _expand(word)
        return [(word, capital, initial)] * bool(word) + [(rest, False, False)] * bool(rest)
    if token in _COUNTRIES:
        return ((_COUNTRIES[token], True, initial),)
    if (full := CONTRACTIONS.get(word)) is not None:
        return [(part, False, False) for part in full]
    if token in _ROMAN:
        return ((_ROMAN[token], False, False),)
    if word[-1].isdigit() and (parts := _CURRENCY.fullmatch(word)):  # "Rs500"
        return [(part, False, False) for part in parts.groups()]
    return ((word if word[0].isdigit() else word.replace(".", ""), capital, initial),)


def _hold(chunk: str, held: list[str]) -> str:
    """Return a chunk of text, or where it is an address, a path or a name of a program's, what stands for it."""
    core = chunk.strip(_EDGES)
    if not _LITERAL.fullmatch(core) or not any(map(str.isalpha, core)):
        return chunk
    held.append(core.casefold())
    return f" {_HELD} "


def _expand(word: str) -> tuple[str, str]:
    """Return a word without what hangs on its apostrophe, and the word that this stands for, if any."""
    if word.endswith("n't"):
        head = word[:-3]
        return _STEMS_OF_NOT.get(head, head), "not"
    head, _, tail = word.rpartition("'")
    if tail == "s":  # "what's", but "Ann's"
        return head.replace("'", ""), "is" if head in _BEFORE_IS else ""
    full = _CLITICS.get(tail, "")
    return (head if full else head + tail).replace("'", ""), full


def _kinds(tokens: list[_Token]) -> list[int]:
    """Say for each word whether it is a name, a number, a date, a negation, a sign or just a word."""
    telling = [t for t in tokens if t[0].isalpha() and t[0] not in STOP and not t[2]]
    # In A Title Or A SHOUT capitals say nothing.
    titled = sum(t[1] for t in telling) > 3 and all(t[1] for t in telling)
    return [_kind(tokens, place, titled=titled) for place in range(len(tokens))]


def _kind(tokens: list[_Token], place: int, *, titled: bool) -> int:  # noqa: C901, PLR0911, PLR0912 - one reason a line
    word, capital, initial = tokens[place]
    if word[0] == _HELD:
        return LITERAL
    if word[-1].isdigit() or word[0].isdigit():
        return NUMBER
    if not word[0].isalpha():
        return PLAIN if word in UNITS else PICTURE if ord(word[0]) > _PICTURES else _sign(tokens, place)
    before = tokens[place - 1][0] if place else ""
    after = tokens[place + 1] if place + 1 < len(tokens) else ("", False, False)
    if word in NUMBER_WORDS and not (word == "second" and (before in _EACH or before[-1:].isdigit())):
        return NUMBER
    if word == "one" and (before in _COUNTED or before in NUMBER_WORDS or after[0] in UNITS or after[0] in MULTIPLIERS):
        return NUMBER
    if word in NEGATION:
        asked = before in ("or", "if") or (before == "why" and place > 1 and tokens[place - 2][0] == "or")
        return PLAIN if word == "not" and (asked or after[0] == "only") else NEGATED  # "... or not?", "if not, why?"
    if word == "used" and after[0] == "to" and before not in _BE:
        return NEGATED  # what used to be is no more
    if word in PLACES or (capital and word in FIRST_NAMES):
        return NAME
    if word in DATES and (word not in MONTHS or len(word) > 3 or (capital and not initial)):
        return DATE
    if word == "a" and capital and not initial and not titled:
        return NAME  # hepatitis A, plan A
    if not capital or word in STOP or word in UNITS:
        return PLAIN
    if titled:
        return NAME if weight(word) > _RARE else PLAIN
    if not initial:
        return NAME
    return NAME if after[1] and not after[2] and after[0] not in STOP and word not in GENERIC else PLAIN


def _sign(tokens: list[_Token], place: int) -> int:
    """Return SYMBOL for a sign between two amounts or letters: an operation, and not decoration."""
    around = tokens[max(place - 1, 0) : place + 2]
    operands = sum(t[0][0].isdigit() or (len(t[0]) == 1 and t[0].isalpha()) for t in around)
    return SYMBOL if operands == 2 else IGNORED


def _numbers(words: list[str], kinds: list[int]) -> tuple[list[str], list[int]]:
    """Write numbers one way: "15k", "15,000" and "fifteen thousand" are 15000."""
    out: list[str] = []
    marks: list[int] = []
    amount = tens = False  # whether the last word is a number, and one like "twenty"
    for word, kind in zip(words, kinds, strict=True):
        value = "1" if word == "one" and kind == NUMBER else NUMBER_WORDS.get(word, word)
        if amount and word in MULTIPLIERS and (product := _times(out[-1], MULTIPLIERS[word])):
            out[-1] = product
        elif tens and len(value) == 1 and value.isdigit() and word.isalpha():
            out[-1] = out[-1][0] + value
        else:
            out.append(_decimal(value) if kind == NUMBER else word)
            marks.append(kind)
            amount = kind == NUMBER
        tens = amount and word.endswith("ty") and word in NUMBER_WORDS
    return out, marks


def _decimal(number: str) -> str:
    plain = "".join(str(unicodedata.digit(c, 0)) if c.isdigit() else c for c in number)
    plain = _GROUPED.sub("", plain)
    plain = plain.removesuffix(".00")
    return plain.lstrip("0") or "0" if plain.isdigit() and len(plain) < 4 else plain


def _times(number: str, factor: int) -> str:
    """Return the product as a decimal, "" where the number is a date, a range or too long to mean an amount."""
    if len(number) > 15:
        return ""
    try:
        return _decimal(f"{float(number) * factor:.6f}".rstrip("0").rstrip("."))
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


CURRENCIES: Final = frozenset(("usd", "inr", "eur", "gbp", "jpy", "krw", "rub", "try", "btc"))


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


def _language(text: str, words: list[str], kinds: list[int]) -> str:
    """Return the language a text is in: "en", another that its function words betray, a script, or "" if unknown."""
    if not text.isascii() and (script := _script(text)) != "LATIN":
        return intern(script)
    opening = words[:_OPENING]
    seen = set(opening)
    english = len(seen & _ENGLISH)
    other, name = max([(len(seen & known), name) for name, known in LANGUAGES.items()])
    if other > english:
        return name
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


_ENGLISH: Final = frozenset(word for word in STOP | GENERIC | PRONOUNS | NEGATION if len(word) > 1)
# Of the words that are no names, those known to be English: less where a function word says so too.
_SURE: Final = 0.65
_LIKELY: Final = 0.35
