"""Conditions of rules and experiments: CEL, compiled once, evaluated in microseconds.

The only user of the CEL library and of RE2. Both are safe by construction: no loops but over what is there, no side
effects, and regular expressions in time linear in the text. A condition that cannot be evaluated for a request, most
often because an attribute is not there, does not hold.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from index.catalogue import did_you_mean

if TYPE_CHECKING:  # loading it takes 0.15 s: only for those who have conditions
    import cel

# What a condition may look at; `service.policy.facts` gives them.
VARIABLES: Final[Mapping[str, object]] = {
    "attributes": {},
    "prompt": "text",
    "tokens": 100,
    "turns": 1,
    "has_code": False,
    "language": "en",
    "scope": "default",
    "category": "maths",
}
_FUNCTIONS: Final = frozenset(
    {"bytes", "contains", "double", "endsWith", "has", "int", "matches", "size", "startsWith", "string", "type", "uint"}
)
# The library compiles a pattern anew at every evaluation, 40 µs each: ours is compiled once.
_OURS: Final = "matches_compiled"
_QUOTED: Final = r"""[rR]?(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_LITERAL: Final = re.compile(_QUOTED, re.DOTALL)
_MATCHES: Final = re.compile(rf"(?P<text>{_QUOTED})|\bmatches(?=\s*\()", re.DOTALL)
_PATTERN: Final = re.compile(rf"\bmatches\s*\(\s*(?:[\w.\[\]\"']+\s*,\s*)?({_QUOTED})\s*\)", re.DOTALL)
_ATTRIBUTE: Final = re.compile(r"""\battributes(?:\.(\w+)|\[\s*["']([^"']*)["']\s*\])""")
_BOUND: Final = re.compile(r"\.\s*(?:exists|exists_one|all|map|filter)\s*\(\s*(\w+)\s*,")
PATH: Final = (
    r"""(?:tokens|turns|has_code|language|scope|category|prompt|attributes(?:\.\w+|\[\s*["'][^"']*["']\s*\]))"""
)
"""A pattern of what a condition may look at."""
TEXT: Final = r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'"""
"""A pattern of a text in quotes."""
_EQUALS: Final = re.compile(
    rf"(?<![\w.])({PATH})\s*(?:[=!]=\s*(-?\d+(?:\.\d+)?|true\b|false\b|{TEXT})|in\s*(\[[^\]]*\]))"
)
_UNLIKE: Final = "attributes and prompt are texts, so compare them with texts, or write int(attributes.x) or size(…)"
_NOT_SO: Final = re.compile(r"Undefined variable or function: '(\w+)'")  # all names are known by then
_FAILURES: Final = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError)


class ExpressionError(ValueError):
    """A condition that cannot be used; the text says why."""


class Condition:
    """One compiled condition.

    Args:
        source: CEL over VARIABLES that gives true or false.

    Raises:
        ExpressionError: it does not compile, names what there is not, or compares what cannot be compared.
    """

    def __init__(self, source: str) -> None:
        import cel

        self.source = source.strip()
        try:
            self._program = cel.compile(_MATCHES.sub(lambda m: m["text"] or _OURS, self.source))
        except ValueError as error:
            raise ExpressionError(f"does not compile: {_plain(error)}") from None
        self.variables = frozenset(self._program.variables()) & VARIABLES.keys()
        self._check_names()
        for pattern in _PATTERN.findall(self.source):
            _check_pattern(literal(pattern))
        self._check_types()
        for value in ("text", "1"):
            self._try(value)

    def holds(self, context: "cel.Context") -> bool:
        """Return whether it holds for a request."""
        try:
            return self._program.execute(context) is True
        except _FAILURES:
            return False

    @property
    def constant(self) -> bool | None:
        """Its value where it depends on nothing, else None."""
        return None if self._program.variables() else self.holds(context_of({}))

    def _check_names(self) -> None:
        bound = set(_BOUND.findall(self.source))
        for name in self._program.variables():
            if name not in VARIABLES and name not in bound:
                hint = did_you_mean(name, VARIABLES) or f"; there are {', '.join(VARIABLES)}"
                raise ExpressionError(f"nothing is called {name!r}{hint}")
        for name in self._program.functions():
            if name.isidentifier() and name not in _FUNCTIONS and name != _OURS:
                hint = did_you_mean(name, _FUNCTIONS) or f"; there are {', '.join(sorted(_FUNCTIONS))}"
                raise ExpressionError(f"there is no function {name!r}{hint}")

    def _check_types(self) -> None:
        """See that nothing is compared with what it can never be equal to: that is no error to the language."""
        texts = [found.span() for found in _LITERAL.finditer(self.source)]
        for found in _EQUALS.finditer(self.source):
            if any(start < found.start() < end for start, end in texts):
                continue
            kind = "text" if found[1].startswith("attributes") else VARIABLES[found[1]]
            try:
                values = [literal(found[2])] if found[2] else literal(found[3])
            except _FAILURES:  # of more than literals
                continue
            if any(_kind(value) is not _kind(kind) for value in values):
                raise ExpressionError(
                    f"`{found[0]}` compares values of different types, which are never equal: {_UNLIKE}"
                )

    def _try(self, value: str) -> None:
        """Evaluate it for a request that has every attribute it names: what cannot be compared shows."""
        attributes = {a or b: value for a, b in _ATTRIBUTE.findall(self.source)}
        try:
            result = self._program.execute(context_of({**VARIABLES, "attributes": attributes}))
        except TypeError:
            raise ExpressionError(f"it compares or combines values of different types: {_UNLIKE}") from None
        except _FAILURES as error:
            if called := _NOT_SO.match(str(error)):
                raise ExpressionError(
                    f"{_plain(called[1])}(…) cannot be called with this, or not in this way"
                ) from None
            return
        if not isinstance(result, bool):
            raise ExpressionError(f"it gives {result!r} where true or false is needed: compare it with something")


def _kind(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def context_of(facts: dict[str, Any]) -> "cel.Context":
    """Return facts in the form in which conditions look at them."""
    import cel

    return cel.Context(variables=facts, functions={_OURS: _matches})


def literal(source: str) -> Any:
    """Return the value of a literal, as the language reads it."""
    import cel

    return cel.evaluate(source)


def split_and(source: str) -> list[str]:
    """Return the parts of a condition that must all hold, as far as they are told apart without brackets."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(source):
        quoted = _LITERAL.match(source, at)
        if quoted:
            at = quoted.end()
            continue
        depth += (source[at] in "([{") - (source[at] in ")]}")
        if depth == 0 and source.startswith(("||", "?"), at):
            return [source]
        if depth == 0 and source.startswith("&&", at):
            parts.append(source[start:at].strip())
            at += 1
            start = at + 1
        at += 1
    return [*parts, source[start:].strip()]


def _matches(text: str, pattern: str) -> bool:
    return _compiled(pattern).search(text) is not None


@lru_cache(1_024)
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def _check_pattern(pattern: str) -> None:
    import re2

    try:
        _compiled(pattern)
    except re2.error as error:
        why = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ExpressionError(
            f"the regular expression {pattern!r} is not one that RE2 takes ({why}); it has no look-around and no "
            "back-references"
        ) from None


def _plain(error: object) -> str:
    """Return the library's message in one line, without its drawing of the place."""
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith("|")).replace(_OURS, "matches")
