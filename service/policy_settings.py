"""The settings of the policy, `[policy]` in the settings file: their form, and what can be told without a catalogue.

What needs the catalogue or the expressions' language is checked in `service.policy.compiled`. Models are ids or
aliases of the catalogue.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCOPE: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
"""What a scope can be called; what it must match in whole."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,63}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Wishes(_Table):
    """What a rule or an arm asks of the decision."""

    pin: str = ""
    """This model and no other."""
    allow: tuple[str, ...] = ()
    """Only these models."""
    deny: tuple[str, ...] = ()
    """Never these models."""
    require: tuple[str, ...] = ()
    """Only models with all these capabilities."""
    tier: str = ""
    """Only models of this tier."""
    min_tier: str = ""
    """Only models of this tier or a higher one."""
    shape: Literal["", "single", "cascade", "speculative", "ensemble"] = ""
    """The form of the plan, where the request does not ask for one."""
    max_cost_usd: NotNegative | None = None
    """The most a call may be expected to cost; the request's own limit holds as well."""
    max_latency_s: Positive | None = None
    """The longest it may be expected to take; the request's own limit holds as well."""
    min_quality: Share | None = None
    """The least expected quality; the request's own limit holds as well."""
    willingness_to_pay: Positive | None = None
    """USD per point of quality, where the request does not say."""
    latency_weight: NotNegative | None = None
    """Points of quality that a second is worth."""
    cache: Literal["default", "exact_only", "refresh", "bypass"] = "default"
    """How far the cache takes part at the most; what the request itself forbids stays forbidden."""

    @property
    def asks(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.model_fields_set & set(Wishes.model_fields))


class Rule(Wishes):
    """One rule. All that match hold, in the order of the file; of two that set the same weight or pin, the first."""

    name: Name
    """What explanations call it."""
    when: Annotated[str, Field(max_length=10_000)] = "true"
    """An expression (CEL) over the request."""
    stop: bool = False
    """Where it matches, no later rule is looked at."""


class Arm(Wishes):
    """One arm of an experiment: what it asks; an arm that asks nothing is the control."""

    name: Name
    """What explanations and metrics call it."""
    share: Share
    """Of the experiment's units, 0 to 1."""
    shadow: bool = False
    """Decide it as well, but serve as without the experiment."""


class Experiment(_Table):
    """Named arms that units are dealt to, always the same for the same unit."""

    name: Name
    """Salts the dealing: another name deals anew."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=20)]
    """Their shares add up to 1 at the most; whoever is left over takes no part."""
    scopes: tuple[str, ...] = ()
    """Only these scopes; empty: all."""
    when: Annotated[str, Field(max_length=10_000)] = "true"
    """An expression (CEL): who takes part."""
    metric: Literal["quality", "ok"] = "quality"
    """What arms are compared by: the reported quality, or whether the outcome was OK."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """How often a difference may be announced where there is none, however often one looks."""

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_scopes(value)
        return value

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = sum(arm.share for arm in self.arms)
        if total > 1 + 1e-9:
            raise ValueError(f"the arms' shares add up to {total:g}: lower them to 1 at the most")
        if total == 0:
            raise ValueError("the arms' shares are all 0: nobody would take part; give one of them a share")
        unique("arm", (arm.name for arm in self.arms))
        return self


class Weights(_Table):
    """How quality, cost and time are weighed: everywhere, or in one scope."""

    willingness_to_pay: Positive | None = None
    """USD per point of quality (one request answered right instead of wrong). Absent: quality first, then cost."""
    latency_weight: NotNegative | None = None
    """Points of quality that a second is worth. Absent: 0."""
    target_strong_share: Share | None = None
    """In place of a price: the share of plans that are to begin with a strong model."""
    monthly_budget_usd: Positive | None = None
    """In place of a price: what a calendar month (UTC) may cost. `willingness_to_pay` is then the most paid."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.target_strong_share is not None and self.monthly_budget_usd is not None:
            raise ValueError("target_strong_share and monthly_budget_usd exclude each other: remove one")
        return self


class SessionSettings(_Table):
    """Conversations: escalate and stay."""

    enabled: bool = True
    """Take `conversation_id` into account."""
    switching_cost: Share = 0.05
    """Points of utility that a cheaper model must gain before a conversation changes down to it."""
    expires_s: Positive = 3_600.0
    """A conversation that rests for so long begins anew."""
    keep: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """How many conversations are remembered; beyond it, those at rest longest are forgotten."""


class HealthSettings(_Table):
    """When a model is left alone for a while because of what was reported of it in a scope."""

    enabled: bool = True
    """Learn from reported outcomes and latencies."""
    window: Annotated[int, Field(ge=1, le=1_000)] = 20
    """How many of the latest reports count."""
    least: Annotated[int, Field(ge=1, le=1_000)] = 5
    """With fewer reports than this nothing is concluded."""
    failure_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The circuit opens when this share of them were errors, timeouts or too slow."""
    open_s: Positive = 30.0
    """How long it stays open before one request tries; doubled after every trial that fails, up to 20 times this."""
    slow_factor: NotNegative = 0.0
    """A call that took so many times the model's usual latency counts as a failure; 0: none does."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.least > self.window:
            raise ValueError(f"least ({self.least}) is above window ({self.window}): no circuit would ever open")
        return self


class ExplorationSettings(_Table):
    """Trying models that may be as good as the best."""

    share: Share = 0.0
    """Of the plans with near ties, how many are drawn by Thompson sampling; 0: none."""
    within: Share = 0.02
    """What is a near tie: at most so many points of utility below the best."""


class PolicySettings(Weights):
    """The policy: rules, weights, sessions, experiments, exploration, health."""

    tiers: tuple[str, ...] = ()
    """The catalogue's tiers, lowest first. Empty: by the mean price of their models."""
    strong: tuple[str, ...] = ()
    """The strong models, for `target_strong_share`. Empty: the model of `stats.baseline` where that is empty."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=1_000)] = ()
    """In the order in which they are looked at."""
    experiments: Annotated[tuple[Experiment, ...], Field(max_length=100)] = ()
    """A request takes part in the first that it belongs to."""
    scopes: Mapping[str, Weights] = Field(default_factory=dict)
    """Weights of one scope, by its name."""
    session: SessionSettings = SessionSettings()
    health: HealthSettings = HealthSettings()
    exploration: ExplorationSettings = ExplorationSettings()

    @model_validator(mode="after")
    def _names(self) -> Self:
        unique("rule", (rule.name for rule in self.rules))
        unique("experiment", (experiment.name for experiment in self.experiments))
        unique("tier", self.tiers)
        check_scopes(self.scopes)
        return self


def check_scopes(names: Iterable[str]) -> None:
    """Raise ValueError where a name is none that a scope can have, so that no request would ever be meant."""
    for name in names:
        if not SCOPE.fullmatch(name):
            raise ValueError(f"no scope can be called {name!r}: use 1 to 128 of A-Z a-z 0-9 . _ : / @ -")


def unique(kind: str, names: Iterable[str]) -> None:
    """Raise ValueError where a name is given twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {kind}s are called {name!r}: rename one")
        seen.add(name)
