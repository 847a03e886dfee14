"""A policy bound to one catalogue: conditions compiled, names resolved, everything that is wrong with it said at once.

Made at the start, by `waypost check`, and before another generation is activated: never while deciding.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from index.catalogue import Catalogue, did_you_mean
from index.generation import Generation
from service.errors import SettingsError
from service.policy import language
from service.policy.asks import Asked, bind
from service.policy.expressions import Condition, ExpressionError
from service.policy.facts import LATE
from service.policy.never import never, unknown_category
from service.policy_settings import Experiment, PolicySettings, Rule


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule with its place in the list, its condition (None: always) and what it asks."""

    place: int
    rule: Rule
    condition: Condition | None
    asked: Asked


@dataclass(frozen=True, slots=True)
class BoundExperiment:
    """An experiment with its condition (None: always) and what its arms ask, by their names."""

    experiment: Experiment
    condition: Condition | None
    asked: Mapping[str, Asked]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy that can be applied; `strong` are ids.

    `late` are the rules that can only be looked at after the search. `facts` and `late_facts` are what conditions look
    at before it and after.
    """

    rules: tuple[BoundRule, ...]
    late: tuple[BoundRule, ...]
    experiments: tuple[BoundExperiment, ...]
    facts: frozenset[str]
    late_facts: frozenset[str]
    strong: frozenset[str]


def fit(settings: PolicySettings, generation: Generation) -> Compiled:
    """Return the policy for a generation, ready to be applied; raises what `compile_policy` does."""
    categories = {reference.category for reference in generation.references}
    compiled = compile_policy(settings, generation.catalogue, generation.strongest, categories)
    if "language" in compiled.facts | compiled.late_facts:
        language.prepare()
    return compiled


def compile_policy(
    settings: PolicySettings, catalogue: Catalogue, strongest: str, categories: Collection[str]
) -> Compiled:
    """Return the policy for a catalogue.

    Args:
        settings: of the policy.
        catalogue: the models.
        strongest: the model that is strong where nothing is said.
        categories: that references have.

    Raises:
        SettingsError: with a line for each thing that is wrong, naming the rule or the arm and the remedy.
    """
    problems: list[str] = []
    tiers = _tiers(settings, catalogue, problems)
    rules: list[BoundRule] = []
    checked: list[tuple[Rule, Condition]] = []
    for number, rule in enumerate(settings.rules):
        place = f"policy.rules, rule {rule.name!r}"
        condition = _condition(place, rule.when, problems)
        asked = bind(f"rule {rule.name!r}", place, rule, catalogue, tiers, problems)
        if not rule.asks and not rule.stop:
            problems.append(f"{place}: asks for nothing: give it a limit, a weight or `stop = true`, or remove it")
        if condition is not None:
            checked.append((rule, condition))
            rules.append(BoundRule(number, rule, None if condition.constant else condition, asked))
            problems += [f"{place}: {why}" for why in _late_problems(rule, condition, categories)]
    problems += [f"policy.rules, rule {name!r}: {why}" for name, why in never(checked)]
    experiments = [_experiment(one, catalogue, tiers, problems) for one in settings.experiments]
    strong = _strong(settings, catalogue, strongest, problems)
    if problems:
        raise SettingsError(problems)
    late = tuple(bound for bound in rules if bound.condition is not None and bound.condition.variables & LATE)
    early = tuple(bound for bound in rules if bound not in late)
    return Compiled(early, late, tuple(experiments), _facts([*early, *experiments]), _facts(late), strong)


def _facts(bound: Iterable[BoundRule | BoundExperiment]) -> frozenset[str]:
    """Return what conditions look at."""
    return frozenset(name for one in bound if one.condition is not None for name in one.condition.variables)


def _late_problems(rule: Rule, condition: Condition, categories: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with a condition on what is only known after the search."""
    if condition.variables & LATE and rule.cache != "default":
        yield "cache: cannot depend on `category`, which is only known after the cache is; remove one of the two"
    if why := unknown_category(condition.source, categories):
        yield f"can never match: {why}"


def _condition(place: str, source: str, problems: list[str]) -> Condition | None:
    try:
        return Condition(source)
    except ExpressionError as error:
        problems.append(f"{place}: when: {error} (given: {source.strip()[:200]})")
        return None


def _experiment(one: Experiment, catalogue: Catalogue, tiers: Sequence[str], problems: list[str]) -> BoundExperiment:
    place = f"policy.experiments, experiment {one.name!r}"
    condition = _condition(place, one.when, problems)
    if condition is not None and condition.constant is False:
        problems.append(f"{place}: its condition is always false, so nobody takes part; mend or remove it")
    if condition is not None and condition.variables & LATE:
        problems.append(f"{place}: when: who takes part cannot depend on `category`, which is only known later")
    asked = {}
    for arm in one.arms:
        at = f"{place}, arm {arm.name!r}"
        asked[arm.name] = bind(f"arm {one.name}/{arm.name}", at, arm, catalogue, tiers, problems)
    return BoundExperiment(one, None if condition is None or condition.constant else condition, asked)


def _tiers(settings: PolicySettings, catalogue: Catalogue, problems: list[str]) -> tuple[str, ...]:
    """Return the catalogue's tiers, lowest first."""
    prices: dict[str, list[float]] = {}
    for model in catalogue.models:
        if model.tier:
            prices.setdefault(model.tier, []).append(model.input_usd_per_mtok + model.output_usd_per_mtok)
    if not settings.tiers:
        return tuple(sorted(prices, key=lambda tier: (sum(prices[tier]) / len(prices[tier]), tier)))
    problems += [
        f"policy.tiers: no model of the catalogue is of tier {tier!r}{did_you_mean(tier, prices)}; "
        "remove it, or give a model this `tier`"
        for tier in settings.tiers
        if tier not in prices
    ]
    problems += [
        f"policy.tiers: the catalogue's tier {tier!r} is missing; say where it stands"
        for tier in sorted(prices.keys() - set(settings.tiers))
    ]
    return settings.tiers


def _strong(settings: PolicySettings, catalogue: Catalogue, strongest: str, problems: list[str]) -> frozenset[str]:
    """Return the strong models."""
    problems += [f"policy.strong: {catalogue.unknown(name)}" for name in settings.strong if name not in catalogue]
    if settings.strong:
        strong = frozenset(model for name in settings.strong if (model := catalogue.resolve(name)) is not None)
        if len(strong) == len(catalogue.models):
            problems.append("policy.strong: names every model of the catalogue: leave one out, to choose between")
        return strong
    return frozenset({strongest})
