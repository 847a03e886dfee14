"""The policy as decisions meet it: every step in its order, each in a module of its own.

    before the cache:     rules, experiment
    after the estimates:  feasibility and health, utility, session, exploration, deployment, plan, shadow arm

Lives on the event loop; what it takes long to make is made by `prepare`, on a thread. Called by `service.decide`, and
with what callers report.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, replace
from typing import Final

from index.generation import Generation
from service.learning.journal import Rating
from service.policy.asks import ask
from service.policy.calibrate import gain
from service.policy.compiled import Compiled, compile_policy
from service.policy.deployments import Groups, alike, groups_of, spread
from service.policy.experiments import Results, deal, first_that_fits, fraction, from_row, to_row, unit_of
from service.policy.exploration import explore
from service.policy.expressions import context_of
from service.policy.facts import facts
from service.policy.goals import Goal, Goals, by_share, weigh
from service.policy.health import Health
from service.policy.pacing import StrongShare
from service.policy.rules import apply_rules
from service.policy.sessions import Key, Sessions, Turn, stay
from service.policy.state import Values
from service.policy.values import Keep, Outlook
from service.policy_settings import PolicySettings
from service.requests import Decision, Estimate, Outcome, Plan, Prompt, Reason, Request, RouteOptions, Trace
from service.routing.cascade import Team
from service.routing.choose import Ranking, fallback_model, rank, utility
from service.routing.plan import describe, shaped
from service.settings import ReviewSettings, RoutingSettings

_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class Ready:
    """A policy that fits one generation."""

    compiled: Compiled
    fallback: str
    groups: Groups
    shares: dict[str, StrongShare]
    team: Team


class Policy:
    """All steps, and what they remember.

    Args:
        settings: of the policy.
        routing: how references vote.
        review: what reviews are taken to be worth.
        keep: where what is remembered is kept.
    """

    def __init__(
        self,
        settings: PolicySettings,
        routing: RoutingSettings,
        review: ReviewSettings,
        keep: Keep = lambda *_: None,
    ) -> None:
        self._settings, self._routing, self._review, self.keep = settings, routing, review, keep
        self._ready: dict[str, Ready] = {}
        self._health = Health(settings.health)
        self._goals = Goals(settings)
        self.sessions = Sessions(settings.session, self._keep_turn)
        self.results = Results()

    def prepare(self, generation: Generation) -> None:
        """Get ready for a generation.

        Raises:
            SettingsError: the policy does not fit its catalogue.
            CatalogueError: its catalogue has no such fallback model.
        """
        means = generation.mean_scores.tolist()
        fallback = fallback_model(generation, self._routing.fallback)
        compiled = compile_policy(self._settings, generation.catalogue, means)
        shares = self._goals.prepare(generation, compiled.strong, self._routing)
        self._ready[generation.id] = Ready(
            compiled, fallback, groups_of(generation.catalogue), shares, self._team(generation)
        )
        while len(self._ready) > _KEPT:  # decisions under way may still need the one before
            del self._ready[next(iter(self._ready))]

    def load(self, kept: Values) -> None:
        """Take in what was kept before a restart."""
        turns = kept.get("session", {})
        self.sessions.load({_pair(key): Turn(model, at) for key, (model, at) in turns.items()})
        self._goals.load(kept.get("budget", {}))
        there = {(one.name, arm.name) for one in self._settings.experiments for arm in one.arms}
        rows = {_pair(key): row for key, row in kept.get("arm", {}).items()}
        self.results.arms = {pair: from_row(row) for pair, row in rows.items() if pair in there}

    def admit(self, request: Request, prompt: Prompt, generation: Generation) -> tuple[Request, Trace]:
        """Return what rules and experiment make of a request, before anything is looked up for it. Pure."""
        compiled, trace = self._ready[generation.id].compiled, Trace(request)
        if not compiled.rules and not compiled.experiments:
            return request, trace
        context = context_of(facts(request, prompt, compiled.facts)) if compiled.facts else None
        request, trace.rule = apply_rules(request, compiled, context)
        if compiled.experiments and not request.route.pin:
            bound = first_that_fits(compiled.experiments, request, context)
            arm = deal(bound.experiment, request.scope, unit_of(request, prompt)) if bound is not None else None
            if bound is not None and arm is not None:
                trace.arm, trace.shadow = f"{bound.experiment.name}/{arm.name}", arm.shadow
                if not arm.shadow:
                    request = ask(request, [bound.asked[arm.name]], overrides=False)
        return request, trace

    def plan(self, decision: Decision, outlook: Outlook, generation: Generation) -> Plan:
        """Return the plan for a decision; what had a say is added to its notes, and what came of it is remembered."""
        ready, request = self._ready[generation.id], decision.request
        goal = self._goals.of(request.scope)
        budget = self._goals.budgets.get(goal.key)
        if budget is not None:
            budget.turn(decision.decided_at)
        if ready.groups:
            decision.estimates = alike(outlook.estimates, ready.groups)
            outlook = replace(outlook, estimates=decision.estimates)
        route, ranking = self._rank(request, outlook, generation, self._avoided(decision))
        if not ranking.models:
            return _impossible(ranking, decision.trace.rule)
        if budget is not None and request.route.willingness_to_pay is None:
            spent, price = budget.state.usd, route.willingness_to_pay
            _note(decision, f"budget: {spent:.2f} USD spent, a point of quality is worth {price:.3g} USD")
        if ranking.reason is not Reason.PINNED:
            ranking = self._choose(decision, ranking, utility(outlook.estimates, route), ready, goal)
        if ready.groups:
            ranking = spread(ranking, ready.groups, fraction("deployment", request.route.unit or decision.id))
        self._remember(decision, ranking, ready, goal)
        plan = shaped(ranking, route, ready.team)
        if why := describe(plan, route.shape):
            _note(decision, why)
        if decision.trace.arm:
            self._dealt(decision, plan, outlook, generation)
        return plan

    def preview(self, decision: Decision, outlook: Outlook, generation: Generation) -> Plan:
        """Return the plan that rules, arm, limits and weights make of a request as it came.

        Nothing is remembered and nothing is left to chance: without health, session, exploration and deployments. For
        Replay, on any thread.
        """
        ready = self._ready[generation.id]
        request, trace = self.admit(decision.request, decision.prompt, generation)
        if ready.groups:
            outlook = replace(outlook, estimates=alike(outlook.estimates, ready.groups))
        route, ranking = self._rank(request, outlook, generation)
        if not ranking.models:
            return _impossible(ranking, trace.rule)
        share = self._share(request, ready, self._goals.of(request.scope))
        if share is not None and ranking.reason is not Reason.PINNED:
            ranking, _ = by_share(ranking, share, ready.compiled.strong)
        return shaped(ranking, route, ready.team)

    def team(self, generation: Generation) -> Team:
        """Return what is known of a generation's models together, and of reviews."""
        return self._ready[generation.id].team

    def _team(self, generation: Generation) -> Team:
        acceptor = generation.acceptor
        separation = self._review.separation if acceptor is None else acceptor.separation
        return Team(separation, generation.agreement, generation.catalogue.ids, self._review.ensemble)

    def like(self, other: "Policy") -> None:
        """Take over what another one spent."""
        self._goals.like(other._goals)  # noqa: SLF001 - of its own kind

    def reported(self, decision: Decision, rating: Rating) -> None:
        """Take in how a call went."""
        outcome, trace, plan = rating.outcome, decision.trace, decision.plan
        if outcome is None or plan is None:
            return
        scope = decision.request.scope
        self._health.reported(scope, rating.model, outcome, rating.latency_s, time.monotonic())
        step = next((s for s in plan.steps if s.model == rating.model), None)
        goal = self._goals.of(scope)
        budget = self._goals.budgets.get(goal.key)
        if budget is not None and trace.charged is not None:
            cost = rating.cost_usd if rating.cost_usd is not None else step.cost_usd if step else 0.0
            budget.correct(cost - trace.charged)
            trace.charged = 0.0
            self.keep("budget", goal.key, astuple(budget.state))
        if trace.arm and not trace.shadow and not trace.judged:
            self._judge(trace, rating)
        # The answer came from a later, dearer step: the conversation has shown that it needs it.
        dearer = step is not None and step.cost_usd > plan.steps[0].cost_usd
        if dearer and outcome is Outcome.OK and (key := self._conversation(decision)):
            self.sessions.put(key, rating.model, time.time())

    def open_circuits(self) -> int:
        """Return how many models are left alone now, counted in every scope."""
        return self._health.open()

    def spent_usd(self) -> float:
        """Return what counts against all monthly budgets, in USD."""
        return sum(budget.state.usd for budget in self._goals.budgets.values())

    def _avoided(self, decision: Decision) -> Collection[str]:
        avoided = self._health.avoided(decision.request.scope, time.monotonic())
        if avoided:
            _note(decision, f"health: the circuit of {', '.join(avoided)} is open")
        return avoided

    def _rank(
        self, request: Request, outlook: Outlook, generation: Generation, avoid: Collection[str] = ()
    ) -> tuple[RouteOptions, Ranking]:
        """Return limits and weights as they hold, and the models that keep them, best first."""
        goal = self._goals.of(request.scope)
        route = weigh(request.route, goal, self._goals.budgets.get(goal.key))
        followed = goal.followed and request.route.willingness_to_pay is None
        return route, rank(
            outlook.estimates,
            route,
            generation.catalogue,
            tokens=outlook.tokens,
            fallback="" if followed else self._ready[generation.id].fallback,
            confidence=outlook.confidence,
            reason=outlook.reason,
            avoid=avoid,
        )

    @staticmethod
    def _share(request: Request, ready: Ready, goal: Goal) -> StrongShare | None:
        return ready.shares.get(goal.key) if request.route.willingness_to_pay is None else None

    def _choose(
        self, decision: Decision, ranking: Ranking, worth: Callable[[Estimate], float], ready: Ready, goal: Goal
    ) -> Ranking:
        """Return the ranking with the model to begin with in front: by share, session and exploration."""
        share = self._share(decision.request, ready, goal)
        if share is not None:
            ranking, why = by_share(ranking, share, ready.compiled.strong)
            _note(decision, why)
        key = self._conversation(decision)
        last = self.sessions.get(key, decision.decided_at) if key else None
        if last is not None:
            cost = self._settings.session.switching_cost
            ranking, why = stay(ranking, last.model, decision.prompt.text, worth, cost)
            if why:
                _note(decision, f"session: {why}")
        elif self._settings.exploration.share and ranking.reason in (Reason.NEIGHBOURS, Reason.CONSTRAINED):
            best = ranking.models[0].model
            model, decision.trace.propensity = explore(ranking, worth, self._settings.exploration, int(decision.id, 16))
            if decision.trace.propensity < 1:
                _note(
                    decision, f"exploration: {model}, with probability {decision.trace.propensity:.4f}; best is {best}"
                )
            ranking = ranking.led_by(model)
        return ranking

    def _remember(self, decision: Decision, ranking: Ranking, ready: Ready, goal: Goal) -> None:
        """Let every step know what was decided in the end."""
        first, scope = ranking.models[0], decision.request.scope
        if self._health.chosen(scope, first.model, time.monotonic()):
            _note(decision, f"health: {first.model} is tried again")
        if ranking.reason is Reason.PINNED:
            key = None
        else:
            key = self._conversation(decision)
            if share := self._share(decision.request, ready, goal):
                strong = ready.compiled.strong
                share.follow(gain(ranking.models, strong), strong=first.model in strong)
        if key:
            self.sessions.put(key, first.model, decision.decided_at)
        if budget := self._goals.budgets.get(goal.key):
            budget.spend(first.cost_usd, decision.decided_at)
            decision.trace.charged = first.cost_usd
            self.keep("budget", goal.key, astuple(budget.state))

    def _conversation(self, decision: Decision) -> Key | None:
        request = decision.request
        named = request.conversation_id and self._settings.session.enabled
        return (request.scope, request.conversation_id) if named else None

    def _dealt(self, decision: Decision, plan: Plan, outlook: Outlook, generation: Generation) -> None:
        """Count a plan for its arm; of a shadow arm, see what it would have done."""
        name, _, arm = decision.trace.arm.partition("/")
        if decision.trace.shadow:
            experiments = self._ready[generation.id].compiled.experiments
            asked = next(bound.asked[arm] for bound in experiments if bound.experiment.name == name)
            wished = ask(decision.request, [asked], overrides=False)
            route, ranking = self._rank(wished, outlook, generation)
            shadow = shaped(ranking, route, self.team(generation))
            self.results.compared(name, arm, plan, shadow)
            would = shadow.steps[0].model if shadow.steps else "no model"
            _note(decision, f"experiment: shadow arm {decision.trace.arm} would take {would}")
        else:
            self.results.of(name, arm).decisions += 1
        self._keep_arm(name, arm)

    def _judge(self, trace: Trace, rating: Rating) -> None:
        """Count what was reported for the arm."""
        name, _, arm = trace.arm.partition("/")
        metric = next((e.metric for e in self._settings.experiments if e.name == name), "quality")
        value = rating.quality if metric == "quality" else float(rating.outcome is Outcome.OK)
        if value is not None:
            trace.judged = True
            self.results.of(name, arm).quality.add(value)
            self._keep_arm(name, arm)

    def _keep_arm(self, experiment: str, arm: str) -> None:
        self.keep("arm", f"{experiment}\0{arm}", to_row(self.results.of(experiment, arm)))

    def _keep_turn(self, key: Key, turn: Turn | None) -> None:
        self.keep("session", "\0".join(key), None if turn is None else (turn.model, turn.at))


def _impossible(ranking: Ranking, rule: str) -> Plan:
    """Return a plan without steps that says which limits to relax, and whose they are."""
    ours = (f"some of these limits are those of the rules in force: {rule}",) if rule else ()
    return Plan((), 0.0, ranking.reason, ranking.infeasible + ours)


def _note(decision: Decision, note: str) -> None:
    decision.notes += (("choose", note),)


def _pair(key: str) -> tuple[str, str]:
    one, _, other = key.partition("\0")
    return one, other
