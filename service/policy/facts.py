"""What conditions look at, taken from a request: only what some condition names is worked out."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from service.policy.language import language
from service.requests import Prompt, Request, Voters

_LOOKED_AT: Final = 20_000  # characters: where there is code, it shows before
# A fence, or a line as only code has it: a definition, an include, a query, a tag, a statement that ends in ; or {.
_CODE: Final = re.compile(
    r"```|^[ \t]*(?:(?:async )?def \w+\(|class \w+[(:{]|import [\w.]+;?$|from [\w.]+ import |#include [<\"]"
    r"|(?:public|private|protected|static|func|fn|function|const|let|var) [^\n]{0,200}[({=]"
    r"|SELECT [^\n]{1,200} FROM |</?[a-z][\w-]*(?: [^>\n]{0,200})?>[^\n]*$|[^\n]{0,200}\)[ \t]*\{$|[^\n ]{1,200}\);$)",
    re.MULTILINE,
)

_FACTS: Final[Mapping[str, Callable[[Request, Prompt, Voters | None], Any]]] = {
    "attributes": lambda request, *_: dict(request.attributes),
    "prompt": lambda _, prompt, __: prompt.text,
    "tokens": lambda _, prompt, __: int(prompt.input_tokens),
    "turns": lambda _, prompt, __: prompt.turns,
    "has_code": lambda _, prompt, __: has_code(prompt.text),
    "language": lambda _, prompt, __: language(prompt.text),
    "scope": lambda request, *_: request.scope,
    "category": lambda *given: category(given[2]),
}
LATE: Final = frozenset({"category"})
"""Facts that are only there after the search."""
_NEAREST: Final = 10


def facts(request: Request, prompt: Prompt, wanted: Collection[str], voters: Voters | None = None) -> dict[str, Any]:
    """Return the facts of these names; `voters` are the references that speak for the prompt, if any do."""
    return {name: _FACTS[name](request, prompt, voters) for name in wanted}


def category(voters: Voters | None) -> str:
    """Return the category that at least half of the nearest references have, "" where there is none."""
    if voters is None:
        return ""
    near = [neighbour.reference.category for neighbour in voters.neighbours(_NEAREST)]
    name, count = Counter(near).most_common(1)[0] if near else ("", 0)
    return name if 2 * count >= len(near) else ""


def has_code(text: str) -> bool:
    """Return whether a text holds program code, as far as its beginning shows."""
    return _CODE.search(text, 0, _LOOKED_AT) is not None
