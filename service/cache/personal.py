"""Personal data in a text, by kind: e-mail addresses, phone, card, account and identity numbers, secret keys.

Patterns find what may be such, and checks decide where there are any: phone numbers by Google's rules (phonenumbers),
card numbers by Luhn's digit and their issuer's range, IBANs by their country's length and remainder. Time is linear in
the text, which is read in windows, so that other threads get their turn. It returns kinds, never what it found.
Names and addresses of persons are not found. Called before an answer is stored.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import phonenumbers

_WINDOW: Final = 64 << 10
_OVERLAP: Final = 512  # longer than anything that is found

_DIGITS = re.compile(r"\d+")
_BESIDE: Final = 64  # longer than what a check looks at before and after a number's digits
_AT = re.compile(r"(?<=[\w.%+\-\"])@(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24}")
# As people write one that programs shall not find, and as it stands in an address of the web.
_SPELT_AT = re.compile(
    r"\w ?(?:[(\[{]at[)\]}]|%40) ?[\w\-]{1,63}(?:(?:\.| ?[(\[{]dot[)\]}] ?)[\w\-]{1,63}){1,8}", re.IGNORECASE
)
_SPELT: Final = ("(at)", "[at]", "{at}", "(AT)", "[AT]", "%40")
# Of e-mail addresses only this is none: it is how programs name a repository.
_NOT_A_PERSON = re.compile(r"(?:\A|[^\w.%+\-])git\Z")

_PHONE = re.compile(r"(?:(?<![\w.,:/\-+(])|(?<=tel:))(?:\+|00)?\(?\d[\d ().\-/\u00a0]{5,22}\d(?!\w)")
_NORTH_AMERICAN = re.compile(r"(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-])\d{3}[ .\-]\d{4}\Z")
# Without a country code a number must be written as one: in groups, and beginning with a 0 or with brackets.
# Five digits and four are a postal code (US): "Boston, MA 02110-1301" ends every copy of an old licence.
_NATIONAL = re.compile(r"(?!\d{5}-\d{4}\Z)(?:0\d|\(\d{1,5}\)|0/)")
# "03/2014 - 10/2015" stands in every curriculum vitae.
_MONTH = re.compile(r"(?<!\d)(?:0?[1-9]|1[0-2])[./\-](?:19|20)\d\d(?!\d)")
# What is called a phone's may be written in any way.
_NAMED_PHONE = re.compile(
    r"(?<!\w)(?:(?:tele)?phone|tel|telefon|téléphone|teléfono|mobile|mobil|handy|cell|fax|whatsapp|call|text|sms"
    r"|(?:telefon|handy|mobil|ruf|fax)(?:nummer|nr)|(?:my|his|her|our|their) number)(?!\w)"
    r"[^\w\n+(]{0,4}(?:(?:number|no|nr|is|me|us|at|on|to)(?!\w)[^\w\n+(]{0,3}){0,3}"
    r"(\+?\(?\d[\d ().\-/]{5,20}\d)(?!\w)",
    re.IGNORECASE,
)
# A check takes 20 to 100 µs: a table of a million numbers must not take a minute. After so many that were none, the
# rest of a text's candidates are believed to be none as well, unless they have a country code.
_MAX_CHECKED: Final = 5_000

_CARD = re.compile(r"(?<![\w.,\-])(?:(?:[3-6]\d|2[2-7])\d{2}(?:[ \-]?\d){9,15}|[3-6]\d{3}(?:\.\d{4}){3})(?![.,\-]?\w)")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.IGNORECASE
)
_IBAN_LENGTHS: Final = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE", "BI"), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BF", "CM", "DJ", "FR", "GR", "IT", "MC", "MG", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SN", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MN", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    "LC": 32,
    "RU": 33,
}
_ACCOUNT = re.compile(
    r"(?<!\w)(?:account|acct|a/c|routing|sort code|kontonummer|konto|compte|cuenta|conto|conta"
    r"|rekening(?:nummer)?)(?!\w)[^\d\n]{0,24}(?<![\d.,$€£])"
    r"(?:\d{6,17}|\d{2}-\d{2}-\d{2}|\d{2,4}(?:[ \-]\d{2,4}){2,4}|\d{4}[ \-]\d{4})(?![\d.,%]?\d)",
    re.IGNORECASE,
)
_IDENTITY = re.compile(
    r"(?<![\d\-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d\-])"
    r"|(?<!\w)(?:ssn|social security)(?!\w)[^\d\n]{0,16}(?!000|666|9)\d{3}[ ]?(?!00)\d{2}[ ]?(?!0000)\d{4}(?!\d)",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"""-----BEGIN\ (?:[A-Z]{1,16}\ ){0,3}PRIVATE\ KEY(?:\ BLOCK)?-----
    |(?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA)[A-Z0-9]{16}
        |sk-(?=[A-Za-z\-_]{0,40}\d)[A-Za-z0-9_\-]{20,200}
        |(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,200}
        |gh[oprsu]_[A-Za-z0-9]{30,200}|github_pat_[A-Za-z0-9_]{30,200}|glpat-[A-Za-z0-9_\-]{20,200}
        |xox[abeoprs]-[A-Za-z0-9\-]{10,200}
        |AIza[A-Za-z0-9_\-]{35}|ya29\.[A-Za-z0-9_\-]{20,200}|SG\.[A-Za-z0-9_\-]{16,64}\.[A-Za-z0-9_\-]{16,64}
        |dckr_pat_[A-Za-z0-9_\-]{20,200}|AGE-SECRET-KEY-1[A-Z0-9]{20,200}
        |\d{8,10}:AA[A-Za-z0-9_\-]{33}
        |(?:hf|npm|gsk|r8|ntn|whsec|lin_api|dop_v1|shp(?:at|ss|ca|pa)|sntrys)_[A-Za-z0-9]{30,200}
        |(?:pplx|xai|pypi|PMAK|tskey-[a-z]{3,10}|sq0(?:atp|csp))-[A-Za-z0-9_\-]{20,200}
        |hvs\.[A-Za-z0-9_\-]{24,200}|dapi[0-9a-f]{32}|key-[0-9a-f]{32}
        |eyJ[A-Za-z0-9_\-]{8,2000}\.eyJ[A-Za-z0-9_\-]{8,2000}\.[A-Za-z0-9_\-]{8,2000}
    )""",
    re.VERBOSE,
)
# What every key has in it, or its name, and few texts have: looking for these takes a tenth of the time.
_KEY_PARTS: Final = (
    "-----BEGIN",
    "AKIA",
    "ASIA",
    "sk-",
    "k_",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xox",
    "AIza",
    "ya29.",
    "SG.",
    "dckr_pat_",
    "AGE-SECRET-KEY-1",
    ":AA",
    "hf_",
    "npm_",
    "r8_",
    "ntn_",
    "whsec_",
    "_api_",
    "dop_v1_",
    "shp",
    "sntrys_",
    "pplx-",
    "xai-",
    "pypi-",
    "PMAK-",
    "tskey-",
    "sq0",
    "hvs.",
    "dapi",
    "key-",
    "eyJ",
)
_KEY_NAMES: Final = ("key", "secret", "token", "passw", "pwd", "bearer")
# A secret that is given a name: long, and of small and capital letters and digits, as no word and no name is, or of
# sixteen kinds of digits. What is called with arguments is a function's name.
_NAMED_KEY = re.compile(
    r"(?i:(?:api|access|account|secret|private|shared|encryption)[_\- ]?key|secret|access[_\- ]?token|auth[_\- ]?token"
    r"|password|passwd|bearer)[\"']?"
    r"\s{0,3}[:= ]\s{0,3}[\"']?"
    r"(?:(?=[A-Za-z0-9+/_\-]{0,80}[a-z])(?=[A-Za-z0-9+/_\-]{0,80}[A-Z])(?=[A-Za-z0-9+/_\-]{0,80}\d)"
    r"[A-Za-z0-9+/_\-]{16,80}|(?=[A-Fa-f]{0,80}\d)(?=\d{0,80}[A-Fa-f])[0-9A-Fa-f]{32,80})(?![\w(])"
)
# In quotes it may be shorter and hold other signs; not those of a placeholder.
_QUOTED_KEY = re.compile(
    r"(?i:secret[_\- ]?key|secret|password|passwd|pwd)[\"']?\s{0,3}[:=]\s{0,3}([\"'])"
    r"(?=[^\s\"'${}<>]{0,80}[a-z])(?=[^\s\"'${}<>]{0,80}\d)(?=[^\s\"'${}<>]{0,80}[!@#%^&*?~+=])"
    r"[^\s\"'${}<>]{10,80}\1"
)


def kinds(text: str, regions: Sequence[str], public: Sequence[str] = ()) -> list[str]:
    """Return the kinds of personal data in a text, each once.

    Args:
        text: any text.
        regions: countries (two letters) whose phone numbers are known without a country code.
        public: what is not personal: the operator's own addresses and numbers.
    """
    for one in public:
        text = text.replace(one, " ")
    in_text: dict[str, Callable[[str], bool]] = {"e-mail address": _has_email, "secret key": _has_key}
    in_numbers: dict[str, Callable[[str], bool]] = {
        "phone number": _Phones(regions).found_in,
        "card number": _has_card,
        "account number": _has_account,
        "identity number": lambda part: _IDENTITY.search(part) is not None,
    }
    found: list[str] = []
    for part in map(_in_ascii_digits, _windows(text)):
        found += _pop(in_text, part)
        for near in _around_digits(part) if in_numbers else ():
            found += _pop(in_numbers, near)
    return found


def _pop(checks: dict[str, Callable[[str], bool]], text: str) -> list[str]:
    """Return the kinds that a text carries, and do not look for them any more."""
    found = [kind for kind, check in checks.items() if check(text)]
    for kind in found:
        del checks[kind]
    return found


def _around_digits(text: str) -> Iterator[str]:
    """Yield the parts of a text in which there are digits, with what stands beside them: most of a text has none."""
    first = last = 0
    for digits in _DIGITS.finditer(text):
        if last and digits.start() > last + _BESIDE:
            yield text[first : last + _BESIDE]
            last = 0
        if not last:
            first = max(digits.start() - _BESIDE, 0)
        last = digits.end()
    if last:
        yield text[first : last + _BESIDE]


def _windows(text: str) -> Iterator[str]:
    for first in range(0, max(len(text), 1), _WINDOW):
        yield text[max(first - _OVERLAP, 0) : first + _WINDOW]


def _in_ascii_digits(text: str) -> str:
    """Return a text with digits of full width and spaces that do not break as everyone writes them."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _has_email(text: str) -> bool:
    if any(sign in text for sign in _SPELT) and _SPELT_AT.search(text):
        return True
    at = text.find("@")
    while at >= 0:
        if _AT.match(text, at) and not _NOT_A_PERSON.search(text, max(at - 4, 0), at):
            return True
        at = text.find("@", at + 1)
    return False


class _Phones:
    """Looks for phone numbers in one text, window by window."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = regions
        self._left = _MAX_CHECKED

    def found_in(self, text: str) -> bool:
        if any(self._is_phone(match[0]) for match in _PHONE.finditer(text)):
            return True
        return any(self._is_called_one(match[1]) for match in _NAMED_PHONE.finditer(text))

    def _is_called_one(self, found: str) -> bool:
        if found.startswith("+"):
            return _is_possible(found)
        if self._left <= 0:
            return False
        self._left -= 1
        return any(_is_valid(found, region) for region in self._regions)

    def _is_phone(self, found: str) -> bool:
        digits = sum(map(str.isdigit, found))
        if not 8 <= digits <= 15:  # noqa: PLR2004 - the least and the most of any country
            return False
        international = found.startswith(("+", "00"))
        if international:
            return _is_possible(f"+{found[2:]}" if found.startswith("00") else found)
        if "US" in self._regions and _NORTH_AMERICAN.match(found):
            return True
        if self._left <= 0 or found.isdigit() or not _NATIONAL.match(found) or _MONTH.search(found):
            return False
        self._left -= 1
        return any(_is_valid(found, region) for region in self._regions)


def _is_possible(number: str) -> bool:
    try:
        # Not what could only be dialled within one area: "+10 000 000" is a sum.
        possible = phonenumbers.is_possible_number_with_reason(phonenumbers.parse(number, None))
        return bool(possible == phonenumbers.ValidationResult.IS_POSSIBLE)
    except phonenumbers.NumberParseException:
        return False


def _is_valid(number: str, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number_for_region(phonenumbers.parse(number, region), region)
    except phonenumbers.NumberParseException:
        return False


def _has_key(text: str) -> bool:
    if any(part in text for part in _KEY_PARTS) and _KEY.search(text):
        return True
    lower = text.lower()
    if not any(name in lower for name in _KEY_NAMES):
        return False
    return _NAMED_KEY.search(text) is not None or _QUOTED_KEY.search(text) is not None


def _has_card(text: str) -> bool:
    cards = ([int(c) for c in match[0] if c.isdigit()] for match in _CARD.finditer(text))
    # So long are those that are issued; thirteen digits are an article's number (EAN).
    return any(len(digits) in _LENGTHS.get(digits[0], _OF_CARDS) and _luhn(digits) for digits in cards)


_OF_CARDS: Final = range(16, 20)
_LENGTHS: Final = {3: range(14, 20), 4: (16, 19)}


def _luhn(digits: Sequence[int]) -> bool:
    """Return whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _has_account(text: str) -> bool:
    return any(_is_iban(match[0]) for match in _IBAN.finditer(text)) or _ACCOUNT.search(text) is not None


def _is_iban(found: str) -> bool:
    """Return whether country, length and remainder are those of an IBAN (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    plain = found.replace(" ", "").replace("-", "").upper()
    length = _IBAN_LENGTHS.get(plain[:2])
    if length is None or len(plain) < length:
        return False
    number = plain[4:length] + plain[:4]
    return int("".join(str(int(c, 36)) for c in number)) % 97 == 1
