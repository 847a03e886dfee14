"""Rules: what the operator asks of every request that a condition holds for.

Those that look at the prompt's category come after the search, all others before anything is looked up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.policy.asks import Asked, ask
from service.policy.compiled import BoundRule, Compiled
from service.policy.expressions import context_of
from service.policy.facts import facts
from service.requests import Prompt, Request, Trace, Voters

if TYPE_CHECKING:
    import cel


def rule_early(request: Request, prompt: Prompt, trace: Trace, compiled: Compiled) -> Request:
    """Return the request as the rules before the search would have it; their names go into the trace."""
    found = facts(request, prompt, compiled.facts)
    return _apply(request, compiled.rules, context_of(found) if found else None, trace, overrides=True)


def rule_late(request: Request, prompt: Prompt, trace: Trace, compiled: Compiled, voters: Voters | None) -> Request:
    """Return the request as the rules after the search would have it.

    A pin of theirs holds against the request's own, and not against that of a rule before the search.
    """
    asked = trace.asked or request
    overrides = request.route.pin == asked.route.pin
    context = context_of(facts(asked, prompt, compiled.late_facts, voters))
    return _apply(request, compiled.late, context, trace, overrides=overrides)


def _apply(
    request: Request, rules: Sequence[BoundRule], context: "cel.Context | None", trace: Trace, *, overrides: bool
) -> Request:
    matched: list[Asked] = []
    names = [trace.rule] if trace.rule else []
    for bound in rules:
        if bound.place > trace.stopped:
            break
        if bound.condition is None or (context is not None and bound.condition.holds(context)):
            matched.append(bound.asked)
            names.append(bound.rule.name)
            if bound.rule.stop:
                trace.stopped = bound.place
                break
    trace.rule = ", ".join(names)
    return ask(request, matched, overrides=overrides) if matched else request
