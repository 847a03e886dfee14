"""Rules that can never match, as far as it can be told from their text: contradictory literals, and what stops before.

Called when a policy is compiled; pure.
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from index.catalogue import did_you_mean
from service.policy.expressions import PATH, TEXT, Condition, literal, split_and
from service.policy_settings import SCOPE, Rule

_COMPARED: Final = re.compile(rf"({PATH})\s*(==|!=|<=|>=|<|>)\s*(-?\d+(?:\.\d+)?|true|false|{TEXT})")
_AMONG: Final = re.compile(rf"({PATH})\s+in\s+(\[\s*(?:{TEXT})(?:\s*,\s*(?:{TEXT}))*\s*\])")
_PLAIN: Final = re.compile(r"(!?)\s*(has_code)")
_CODE: Final = re.compile(r"[a-z]{2,3}")
_LEAST: Final = {"tokens": 0, "turns": 1}


def never(rules: Sequence[tuple[Rule, Condition]]) -> list[tuple[str, str]]:
    """Return the rules that can never match, with the reason and the remedy."""
    found: list[tuple[str, str]] = []
    stopping: list[tuple[Rule, Condition]] = []
    for rule, condition in rules:
        if condition.constant is False:
            found.append((rule.name, "can never match: its condition is always false; mend it or remove the rule"))
        elif why := contradiction(condition.source):
            found.append((rule.name, f"can never match: {why}; mend the condition or remove the rule"))
        for before, other in stopping:
            if other.constant or other.source == condition.source:
                always = "every request" if other.constant else "the same requests"
                why = f"can never match: rule {before.name!r} before it stops at {always}; move this rule before it"
                found.append((rule.name, why))
                break
        if rule.stop:
            stopping.append((rule, condition))
    return found


def contradiction(source: str) -> str:
    """Return which literals of a condition exclude each other, "" where none are seen to."""
    spans: dict[str, _Span] = {}
    for part in split_and(source):
        if not (compared := _comparison(part)):
            continue
        path, operator, value = compared
        named = value if operator == "in" else [value] if operator == "==" else []
        if path == "language" and named and not any(map(_CODE.fullmatch, named)):
            return f'`{part}`: a language is an ISO 639-1 code such as "en"'
        if path == "scope" and named and not any(map(SCOPE.fullmatch, named)):
            return f"`{part}`: no scope can be called so"
        span = spans.setdefault(path, _Span(path))
        if not span.narrow(operator, value):
            return f"nothing is left of {path} after `{part}`"
    return ""


def _comparison(part: str) -> tuple[str, str, Any] | None:
    """Return (what, operator, literal) where a part is no more than that."""
    while part.startswith("(") and part.endswith(")") and len(split_and(part[1:-1])) == 1:
        part = part[1:-1].strip()
    if found := _PLAIN.fullmatch(part):
        return found[2], "==", not found[1]
    if found := _COMPARED.fullmatch(part):
        return _path(found[1]), found[2], literal(found[3])
    if found := _AMONG.fullmatch(part):
        return _path(found[1]), "in", literal(found[2])
    return None


def _path(text: str) -> str:
    name = re.search(r"""["']([^"']*)["']""", text)
    return f"attributes.{name[1]}" if name else text


class _Span:
    """The values that a path may still have: those listed, or those within bounds, without those excluded."""

    def __init__(self, path: str) -> None:
        self._listed: set[Any] | None = {True, False} if path == "has_code" else None
        self._excluded: set[Any] = set()
        self._least, self._most = float(_LEAST.get(path, -math.inf)), math.inf
        self._whole = path in _LEAST

    def narrow(self, operator: str, value: Any) -> bool:
        """Take in one comparison; return whether anything is left."""
        if operator in {"==", "in"}:
            listed = set(value) if operator == "in" else {value}
            self._listed = listed if self._listed is None else self._listed & listed
        elif operator == "!=":
            self._excluded.add(value)
        elif isinstance(value, int | float):
            self._bound(operator, value)
        if self._listed is not None:
            return any(v not in self._excluded and self._within(v) for v in self._listed)
        return self._least <= self._most

    def _bound(self, operator: str, value: float) -> None:
        step = 1 if self._whole else 0
        inside = math.nextafter if not self._whole else lambda v, to: v + (step if to > v else -step)
        if operator == ">":
            self._least = max(self._least, inside(math.floor(value) if self._whole else value, math.inf))
        elif operator == ">=":
            self._least = max(self._least, math.ceil(value) if self._whole else value)
        elif operator == "<":
            self._most = min(self._most, inside(math.ceil(value) if self._whole else value, -math.inf))
        else:
            self._most = min(self._most, math.floor(value) if self._whole else value)

    def _within(self, value: Any) -> bool:
        return isinstance(value, str | bool) or self._least <= value <= self._most


def unknown_category(source: str, categories: Collection[str]) -> str:
    """Return a category that a condition asks for and no reference has, with a hint; "" where there is none."""
    for part in split_and(source):
        path, operator, value = _comparison(part) or ("", "", "")
        if path == "category" and operator in {"==", "in"}:
            for name in value if operator == "in" else [value]:
                if name and name not in categories:
                    hint = (
                        did_you_mean(name, categories) or f"; there are {', '.join(sorted(categories)[:20]) or 'none'}"
                    )
                    return f"no reference is of category {name!r}{hint}"
    return ""
