"""Rules: what the operator asks of every request that a condition holds for."""

from typing import TYPE_CHECKING

from service.policy.asks import Asked, ask
from service.policy.compiled import Compiled
from service.requests import Request

if TYPE_CHECKING:
    import cel


def apply_rules(request: Request, compiled: Compiled, context: "cel.Context | None") -> tuple[Request, str]:
    """Return the request as the rules would have it, and the names of those that matched, in their order."""
    matched: list[Asked] = []
    names: list[str] = []
    for bound in compiled.rules:
        if bound.condition is None or (context is not None and bound.condition.holds(context)):
            matched.append(bound.asked)
            names.append(bound.rule.name)
            if bound.rule.stop:
                break
    return (ask(request, matched, overrides=True), ", ".join(names)) if matched else (request, "")
