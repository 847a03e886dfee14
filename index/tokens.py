"""A prompt's words, one way of writing each: what `index.wording` reads it from.

Splits a text, writes out contractions, writes numbers one way, keeps addresses, paths and identifiers whole, and says
of each word what kind it is. Pure; never raises; never reads more than `LONGEST` characters, in linear time.
"""

# ruff: noqa: PLR2004, RUF001 - lengths that tell words from marks; the characters people type for others

import re
import unicodedata
from collections.abc import Iterable
from sys import intern
from typing import Final

from index.lexicon import (
    CONTRACTIONS,
    DATES,
    FIRST_NAMES,
    GENERIC,
    LATIN,
    MONTHS,
    MULTIPLIERS,
    NEGATION,
    NUMBER_WORDS,
    PLACES,
    STOP,
    UNITS,
    remembered,
    weight,
)

LONGEST: Final = 4_096
"""Characters that are read. A longer text is marked `cut`: what follows could say anything."""
MOST: Final = 512
"""Words that are read; of more, too, the text is `cut`. The default encoder's window is half of it."""
PLAIN, NAME, NUMBER, DATE, NEGATED, LITERAL, PICTURE, SYMBOL, IGNORED = range(9)

# Words between spaces, as most are, for speed; words with digits in them, letters with inner apostrophes (and C++, C#,
# U.S.), numbers with their sign and inner separators, signs that mean something, pictures, ends of sentences.
_TOKEN: Final = re.compile(
    r"[A-Za-z]++(?=[\s?,])|\d+[A-Za-z]\b|(?<=\s)(?:[$&*#@][$&*#@?!]?(?=\s+\S)|[?!]\s(?=[a-z]))"
    r"|(?:(?<![^\s(=,])[-.])?\d+(?:[.,:/\-]\d+)*|[A-Za-z](?:\.[A-Za-z])+\b|[^\W\d_]++\d\w*(?:[.\-]\d+)*"
    r"|[^\W\d_]+(?:'[^\W\d_]+)*(?:\+\+|#)?|[%$°+*×÷\u00a2-\u00a5\u20a0-\u20cf]|(?<=\s)[-/](?=\s)"
    r"|[\u2190-\u2bff\U0001f000-\U0001faff]|[.?!\n\ue000]"
)
# Addresses, paths, names of files and of variables: compared as they stand.
_LITERAL: Final = re.compile(
    r"\S*(?:[@\\_]|://|/\S*/)\S*|(?:~?/|--?)[^\W\d]\S*|(?:[\w\-.]+/)?[\w\-]{2,}\.[a-z]\w{1,5}"
    r"|(?i:utc|gmt)[+\-]\d\S*"
    r"|[A-Za-z]{1,2}[+*]|[A-Z]{1,2}-|[a-z]--|\+\+[a-z]|[*&!][A-Za-z]\w*"  # a+, blood of type A-, ++i, *p
    r"|[A-Za-z]\w*\d[+#]|[A-Za-z](?:-[A-Za-z])+|[A-Z]{2,5}\.[A-Z]|[a-z]{2,5}\.[bchr]"  # of chess; shares, main.c
)
# In these small letters are not capital ones; nobody writes addresses and names of files with care.
_CASED: Final = re.compile(r"[^@:]*[\\_][^@:]*|-\S*")
# What is sugar-free is without sugar, and seldom written with care.
_FREE_OF: Final = re.compile(
    r"(?<=[a-z])-free\b|(?:(?<=\bsugar)|(?<=\bgluten)|(?<=\blactose)|(?<=\bdairy)|(?<=\balcohol)|(?<=\bfat)"
    r"|(?<=\bcaffeine)|(?<=\bnut)|(?<=\bmeat)) free\b"
)
# What is written either way; and who wishes a good morning asks nothing about it.
_UNITED: Final = re.compile(r"\b(?:the )?[Uu]nited ([Ss]tates|[Kk]ingdom)\b(?: of America\b| of Great Britain\b)?")
_FIRST_WAR: Final = re.compile(r"(?<=[Ww]orld [Ww]ar )I\b")
_STATES: Final = {"s": "USA", "k": "UK"}
_GREETING: Final = re.compile(r"good (?:morning|afternoon|evening)\b(?=\s*[,.!;:\-\n])", re.IGNORECASE)
_EDGES: Final = ".,;:?!'\"()[]{}<>"
_OPENING: Final = _EDGES.replace("!", "")  # "!x" is not x
# Beyond single letters, which are letters first.
_ROMAN: Final = {
    tens * "X" + ones: str(10 * tens + one)
    for tens in range(4)
    for one, ones in enumerate(("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"))
    if tens + len(ones) > 1
}
_GROUPED: Final = re.compile(r"(?<=\d),(?=\d{2,3}(?:\D|$))")
_QUOTES: Final = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"',
                                "–": "-", "‑": "-", "−": "-", "×": "x"})  # fmt: skip
_MAYBE_LITERAL: Final = re.compile(
    r"[@\\_/]|\w\.[A-Za-z]|(?<!\S)--?[^\W\d]|\w[+*#\-](?![\w+])|[CTct][+\-]\d|[+*&!][A-Za-z]"
    r"|[A-Za-z]-[A-Za-z]\b"
)
# Without one of these there is none.
_MARKING: Final = frozenset("@\\_/.-+*&!")
_ORDINARY_MARKS: Final = frozenset(".-")
_CHUNK: Final = re.compile(r"(?<!\S)\S*[@\\_/.\-+*&!#]\S*")
_HELD: Final = "\ue000"  # stands for a literal while the rest is split; of no use in a text
_PICTURES: Final = 0x2190
_ORDINAL: Final = frozenset(("st", "nd", "rd", "th"))
_COUNTED: Final = frozenset((
    "type", "level", "class", "phase", "part", "chapter", "number", "stage", "version", "option", "plan", "step",
    "grade", "season", "episode", "volume", "page", "question", "least", "most", "than",
))  # fmt: skip
# Letters that are written behind a number with or without a space.
_APART: Final = "cdfpx" + "".join(word for word in (*UNITS, *MULTIPLIERS) if len(word) == 1 and word.isalpha())
# A currency before a number, a version, a letter behind one.
_COMPOUND: Final = re.compile(rf"(rs|inr|usd|eur|gbp)(\d+)|v(\d[\d.\-]*)|(\d+)([{_APART}])")
_STANDING_ALONE: Final = frozenset("$&*#@?!+")
_EACH: Final = frozenset(("a", "per", "each", "every", "one"))
_COUNTRIES: Final = {"US": "usa", "U.S": "usa", "U.S.A": "usa", "U.K": "uk"}  # "us" is another word
# Where capitals tell bits from bytes, and thousandths from millions.
_BITS: Final = {
    "Mb": "megabit", "Gb": "gigabit", "MBps": "megabyteps",
    "mW": "milliwatt", "mHz": "millihertz", "mPa": "millipascal",
}  # fmt: skip
_RARE: Final = 0.9  # of a weight: rank 5,000, where in a title a word is more often a name than not
_ENDS: Final = frozenset(".?!\n")
_CLITICS: Final = {"d": "would", "ll": "will", "ve": "have", "re": "are", "m": "am"}
_BEFORE_IS: Final = frozenset(
    ("what", "who", "where", "when", "why", "how", "it", "that", "there", "here", "he", "she")
)
_STEMS_OF_NOT: Final = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_SHORT: Final = frozenset(_COUNTRIES) | frozenset(_BITS) | frozenset(_ROMAN)
# Words that may be more than a word without a capital, too.
_MARKED: Final = frozenset((*NUMBER_WORDS, *NEGATION, *PLACES, *DATES, "one", "used"))
# Function words that may be more than that with a capital.
_NAMING: Final = frozenset((*FIRST_NAMES, *UNITS, "a"))
BE: Final = frozenset(("is", "are", "was", "were", "be", "been", "being", "am", "get", "got", "gets"))


# The word, how it is capitalised (`_capital`), whether it opens a sentence, whether it is just a word whatever stands
# around it.
_Token = tuple[str, int, bool, bool]


def plain(text: str) -> tuple[str, bool]:
    """Return the text in characters that say the same in one way, and whether it was cut."""
    cut = len(text) > LONGEST
    text = text[:LONGEST]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "free" in text:
        text = _FREE_OF.sub(" without", text)
    if "nited" in text:
        text = _UNITED.sub(lambda found: _STATES[found[1][0].casefold()], text)
    if "ar I" in text:
        text = _FIRST_WAR.sub("1", text)
    if text[:5].casefold() == "good ":
        text = _GREETING.sub("", text)
    if text.isascii():
        return text.replace("`", "'"), cut
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES))
    cut = cut or len(text) > LONGEST
    text = text.replace("°C", " celsius").replace("°F", " fahrenheit")
    return text[:LONGEST].translate(_QUOTES).replace(_HELD, " "), cut


def split(text: str) -> tuple[list[str], list[int], bool]:
    """Return the words of a plain text, the kind of each, and whether there were more than `MOST`."""
    tokens = _tokens(text)
    cut = len(tokens) > MOST
    tokens = tokens[:MOST]
    return *_numbers([word for word, _, _, _ in tokens], _kinds(tokens)), cut


def _tokens(text: str) -> list[_Token]:
    """Split into casefolded words, contractions written out; the ends of sentences are not kept."""
    held: list[str] = []
    if _is_marked(text) and _MAYBE_LITERAL.search(text):
        text = _CHUNK.sub(lambda chunk: _hold(chunk[0], held), text)
    literals = iter(held)
    found: list[_Token] = []
    initial = True
    for token in _TOKEN.findall(text):
        if ordinary := _ordinary(token):
            found.append(ordinary[initial])
            initial = False
        elif token in _ENDS:
            # A full stop behind a capital is one of a name: "Samuel L. Jackson".
            initial = not (token == "." and found and len(found[-1][0]) == 1 and found[-1][1])  # noqa: S105 - a word
        elif token == _HELD:
            found.append((_HELD + next(literals), 0, False, False))
            initial = False
        elif token not in _ORDINAL or not found or not found[-1][0][-1].isdigit():
            found += _written_out(token, initial=initial)
            initial = False
    return found


def _is_marked(text: str) -> bool:
    """Return whether a text has a sign of addresses and the like, beyond those that end sentences or begin items."""
    marks = _MARKING.intersection(text)
    if not marks <= _ORDINARY_MARKS:
        return True
    stops = text.count(". ") + text.count(".\n") + text.endswith(".")
    return text.count(".") > stops or text.count("-") > text.count("\n- ")


@remembered
def _ordinary(token: str) -> tuple[_Token, _Token] | None:
    """Return a token where it is just a word, as nearly all are, within a sentence and as it opens one."""
    word = token.casefold()
    plain_ = word.isalpha() and word not in CONTRACTIONS and token not in _SHORT and token not in _ORDINAL
    if not plain_:
        return None
    word, capital = intern(word), _capital(token)
    alone = not capital or (capital == 1 and word in STOP and word not in _NAMING)
    sure = alone and word.isascii() and word not in _MARKED
    return (word, capital, False, sure), (word, capital, True, sure)


def _capital(token: str) -> int:
    """Return 2 for a word all in capitals, 1 for one that opens with one or is a programmer's name, else 0."""
    if token.isupper() and len(token) > 1:
        return 2
    return token[0].isupper() or (token[:2].islower() and token.isalpha() and not token.islower())


def _written_out(token: str, *, initial: bool) -> Iterable[_Token]:
    """Return the words a token stands for."""
    word, capital = token.casefold(), _capital(token)
    if "'" in word:
        word, rest = _expand(word)
        return [(word, capital, initial, False)] * bool(word) + [(rest, 0, False, False)] * bool(rest)
    if token in _COUNTRIES:
        return ((_COUNTRIES[token], 1, initial, False),)
    if (full := CONTRACTIONS.get(word)) is not None:
        return [(part, 0, False, False) for part in full]
    if token in _SHORT:
        return ((_ROMAN.get(token) or _BITS[token], 0, False, False),)
    if parts := _COMPOUND.fullmatch(word):  # "Rs500", "v1.2", "5k", "3D"
        return [(part, 0, False, False) for part in parts.groups() if part]
    return ((word.replace(".", "") if word[0].isalpha() else word, capital, initial, False),)


def _hold(chunk: str, held: list[str]) -> str:
    """Return a chunk of text, or where it is an address, a path or a name of a program's, what stands for it."""
    core = chunk.rstrip(_EDGES).lstrip(_OPENING)
    if not _LITERAL.fullmatch(core) or not any(map(str.isalpha, core)):
        return chunk
    held.append(core if _CASED.fullmatch(core) else core.casefold())
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
    titled = sum([capital for _, capital, _, _ in tokens]) > 3 and _is_title(tokens)
    return [PLAIN if sure else _kind(tokens, place, titled=titled) for place, (_, _, _, sure) in enumerate(tokens)]


def _is_title(tokens: list[_Token]) -> bool:
    """Return whether this is A Title Or A SHOUT, where capitals say nothing."""
    telling = [t for t in tokens if t[0].isalpha() and len(t[0]) > 1 and t[0] not in STOP and not t[2]]
    return len(telling) > 3 and all(t[1] for t in telling)


def _kind(tokens: list[_Token], place: int, *, titled: bool) -> int:  # noqa: C901, PLR0911, PLR0912 - one reason a line
    word, capital, initial, _ = tokens[place]
    if word[0] == _HELD or (max(word) > LATIN and word[0].isalpha()):
        return LITERAL  # the encoder's words are Latin ones: it cannot tell others apart
    if word[-1].isdigit() or word[0].isdigit():
        return NUMBER
    if not word[0].isalpha():
        return PLAIN if word in UNITS else PICTURE if ord(word[0]) > _PICTURES else _sign(tokens, place)
    before = tokens[place - 1][0] if place else ""
    after = tokens[place + 1] if place + 1 < len(tokens) else ("", 0, False, False)
    if word in NUMBER_WORDS and not (word == "second" and (before in _EACH or before[-1:].isdigit())):
        return NUMBER
    if word == "one" and (before in _COUNTED or before in NUMBER_WORDS or after[0] in UNITS or after[0] in MULTIPLIERS):
        return NUMBER
    if word in NEGATION:
        asked = before in ("or", "if") or (before == "why" and place > 1 and tokens[place - 2][0] == "or")
        return PLAIN if word == "not" and (asked or after[0] == "only") else NEGATED  # "... or not?", "if not, why?"
    if word == "used" and after[0] == "to" and before not in BE:
        return NEGATED  # what used to be is no more
    if word in PLACES or (capital and word in FIRST_NAMES):
        return NAME
    if word in DATES and (word not in MONTHS or len(word) > 3 or (capital and not initial)):
        return DATE
    if word == "a" and capital and not initial and not titled:
        return NAME  # hepatitis A, plan A
    if capital and (capital == 2 or word in UNITS) and place and not titled and _goes_on(tokens, place, after):
        return NAME
    if not capital or word in STOP or word in UNITS:
        return PLAIN
    if titled:
        return NAME if weight(word) > _RARE else PLAIN
    if not initial:
        return NAME
    return NAME if after[1] and not after[2] and after[0] not in STOP and word not in GENERIC else PLAIN


def _goes_on(tokens: list[_Token], place: int, after: _Token) -> bool:
    """Return whether what is a function word or a unit else is part of a name: "UNION ALL", "George W. Bush"."""
    before, token = tokens[place - 1], tokens[place]
    if token[1] == 2:
        return before[1] == 2 and before[0] not in STOP and token[0] in STOP and not all(t[1] for t in tokens)
    return bool(before[1] and after[1]) and len(token[0]) == 1 and token[0] in UNITS


def _sign(tokens: list[_Token], place: int) -> int:
    """Return SYMBOL for a sign between two amounts or letters: an operation, and not decoration.

    What stands alone among words may be what is asked about: one such sign is not another.
    """
    around = tokens[max(place - 1, 0) : place + 2]
    operands = sum(t[0][0].isdigit() or (len(t[0]) == 1 and t[0].isalpha()) for t in around)
    if operands == 2:
        return SYMBOL
    return PICTURE if tokens[place][0][0] in _STANDING_ALONE else IGNORED


def _numbers(words: list[str], kinds: list[int]) -> tuple[list[str], list[int]]:
    """Write numbers one way: "15k", "15,000" and "fifteen thousand" are 15000."""
    if NUMBER not in kinds:
        return words, kinds
    out: list[str] = []
    marks: list[int] = []
    amount = tens = False  # whether the last word is a number, and one like "twenty"
    for word, kind in zip(words, kinds, strict=True):
        if kind != NUMBER and not amount:  # as most
            out.append(word)
            marks.append(kind)
            continue
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
    plain = f"0{plain}" if plain[0] == "." else plain.removesuffix(".00")
    return plain.lstrip("0") or "0" if plain.isdigit() and len(plain) < 4 else plain


def _times(number: str, factor: int) -> str:
    """Return the product as a decimal, "" where the number is a date, a range or too long to mean an amount."""
    if len(number) > 15:
        return ""
    try:
        return _decimal(f"{float(number) * factor:.6f}".rstrip("0").rstrip("."))
    except ValueError:
        return ""
