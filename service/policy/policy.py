"""The policy as decisions meet it: every step in its order, each in a module of its own.

    before the cache:     rules, experiment
    after the estimates:  rules by category, feasibility, health, utility, session, shadow arm, exploration, deployment

Lives on the event loop; what it takes long to make is made by `prepare`, on a thread. Called by `service.decide`, and
with what callers report.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, TypeVar

from index.generation import Generation
from service.learning.journal import Rating
from service.policy.asks import ask
from service.policy.compiled import Compiled, fit
from service.policy.deployments import Groups, alike, groups_of, one_each, spread
from service.policy.experiments import Results, deal, first_that_fits, fraction, unit_of
from service.policy.exploration import explore
from service.policy.goals import Goals, by_share, weigh
from service.policy.health import Health
from service.policy.pacing import StrongShare
from service.policy.rules import rule_early, rule_late
from service.policy.sessions import Key, Sessions, Turn, stay
from service.policy.state import Values
from service.policy_settings import PolicySettings
from service.requests import Decision, Estimate, Outcome, Plan, Prompt, Reason, Request, RouteOptions, Shape, Trace
from service.routing.cascade import Team
from service.routing.choose import Known, Ranking, able, fallback_model, rank, utility
from service.settings import ReviewSettings, RoutingSettings

_KEPT: Final = 3

Nothing = TypeVar("Nothing", Ranking, Plan)
Keep = Callable[[str, str, Any], None]
"""Takes kind, key and value, to keep it across restarts; None: no longer."""


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
        self.results = Results(settings.experiments, lambda arm, row: self.keep("arm", arm, row))

    def prepare(self, generation: Generation) -> None:
        """Get ready for a generation.

        Raises:
            SettingsError: the policy does not fit its catalogue.
            CatalogueError: its catalogue has no such fallback model.
        """
        fallback = fallback_model(generation, self._routing.fallback)
        compiled = fit(self._settings, generation)
        shares = self._goals.prepare(generation, compiled.strong, self._routing)
        self._ready.pop(generation.id, None)  # the latest stands last
        groups = groups_of(generation.catalogue)
        self._ready[generation.id] = Ready(compiled, fallback, groups, shares, self._team(generation, groups))
        while len(self._ready) > _KEPT:  # decisions under way may still need the one before
            del self._ready[next(iter(self._ready))]

    def load(self, kept: Values) -> None:
        """Take in what was kept before a restart."""
        turns = kept.get("session", {})
        self.sessions.load({_pair(key): Turn(model, at) for key, (model, at) in turns.items()})
        self._goals.load(kept.get("budget", {}))
        self.results.load(kept.get("arm", {}))

    def admit(self, request: Request, prompt: Prompt, generation: Generation) -> tuple[Request, Trace]:
        """Return what rules and experiment make of a request, before anything is looked up for it. Pure."""
        compiled, trace = self._ready[generation.id].compiled, Trace(request)
        if compiled.rules or compiled.experiments:
            request = self._ruled(request, prompt, trace, compiled)
        if request.route.require:
            request = self.able(request, None, generation)
        return request, trace

    def _ruled(self, request: Request, prompt: Prompt, trace: Trace, compiled: Compiled) -> Request:
        request = rule_early(request, prompt, trace, compiled)
        if compiled.experiments and not request.route.pin:
            bound = first_that_fits(compiled, request, prompt)
            arm = deal(bound.experiment, request.scope, unit_of(request, prompt)) if bound is not None else None
            if bound is not None and arm is not None:
                trace.arm, trace.shadow = f"{bound.experiment.name}/{arm.name}", arm.shadow
                if not arm.shadow:
                    request = ask(request, [bound.asked[arm.name]], overrides=False)
        return request

    def able(self, request: Request, estimates: tuple[Estimate, ...] | None, generation: Generation) -> Request:
        """Return a request with the models that have what it asks of one, as far as that is known before `choose`."""
        groups = self._ready[generation.id].groups
        known = alike(estimates, groups) if groups and estimates is not None else estimates
        return request._replace(route=able(request.route, generation.catalogue, known))

    def choose(
        self, decision: Decision, known: Known, generation: Generation, tokens: float
    ) -> tuple[Ranking, RouteOptions]:
        """Return the feasible models with the one to begin with in front, and limits and weights as they held.

        What had a say is added to the decision's notes. What becomes of the ranking is told with `planned`.

        Args:
            decision: its request is as rules and experiment would have it.
            known: of the models, for its prompt.
            generation: of the decision.
            tokens: about how many a model would read and write together.
        """
        ready = self._ready[generation.id]
        if ready.compiled.late:
            request, trace, prompt = decision.request, decision.trace, decision.prompt
            decision.request = rule_late(request, prompt, trace, ready.compiled, decision.voters)
        request = decision.request
        budget = self._goals.budgets.get(self._goals.of(request.scope).key)
        if budget is not None:
            budget.turn(decision.decided_at)
        if ready.groups:
            decision.estimates = alike(known.estimates, ready.groups)
            known = replace(known, estimates=decision.estimates)
        trace, avoided = decision.trace, self._avoided(decision)
        ranking, route = self._rank(request, known, generation, tokens, avoided)
        if not ranking.models:
            return self.whose(ranking, trace), route
        if budget is not None and request.route.willingness_to_pay is None:
            spent, price = budget.state.usd, route.willingness_to_pay
            _note(decision, f"budget: {spent:.2f} USD spent, a point of quality is worth {price:.3g} USD")
        ranking, trace.gain, said = self._lead(decision, request, ranking, known, route, ready)
        for why in said:
            _note(decision, why)
        if trace.shadow:  # before chance has its say, which would have it for the arm as well
            self._shadow(decision, ranking, known, generation, tokens, avoided)
        chooses = known.reason is Reason.NEIGHBOURS and ranking.reason is not Reason.PINNED
        if self._settings.exploration.share and chooses and self._last(decision) is None:
            ranking = self._explored(decision, ranking, utility(known.estimates, route), ready)
        if ready.groups:
            ranking = _placed(ranking, decision, ready)
        trace.lead = ranking.models[0].model
        return ranking, route

    def preview(
        self, decision: Decision, known: Known, generation: Generation, tokens: float
    ) -> tuple[Ranking, RouteOptions]:
        """Return what `choose` would, for a request as it came, and remember nothing.

        Rules, arm, limits, weights, share and deployments are applied; health, sessions and exploration are not. For
        Replay, on any thread. The arguments are those of `choose`.
        """
        ready = self._ready[generation.id]
        request, trace = self.admit(decision.request, decision.prompt, generation)
        if ready.compiled.late:
            request = rule_late(request, decision.prompt, trace, ready.compiled, decision.voters)
        if ready.groups:
            known = replace(known, estimates=alike(known.estimates, ready.groups))
        ranking, route = self._rank(request, known, generation, tokens)
        if not ranking.models:
            return self.whose(ranking, trace), route
        share = self._share(request, ready)
        if share is not None and ranking.reason is not Reason.PINNED:
            ranking, _, _ = by_share(ranking, share, ready.compiled.strong)
        return (_placed(ranking, decision, ready) if ready.groups else ranking), route

    @staticmethod
    def whose(nothing: Nothing, trace: Trace) -> Nothing:
        """Return a ranking or plan of no models that also says whose limits these are."""
        ours = [f"the rules in force: {trace.rule}"] if trace.rule else []
        ours += [f"the experiment's arm {trace.arm}"] if trace.arm and not trace.shadow else []
        said = tuple(f"some of these limits are those of {one}" for one in ours)
        return replace(nothing, infeasible=nothing.infeasible + said)

    def planned(self, decision: Decision, plan: Plan, generation: Generation) -> None:
        """Let every step know what was planned in the end."""
        if not plan.steps:
            return
        scope, trace = decision.request.scope, decision.trace
        ready = self._ready[generation.id]
        for step in plan.steps[: plan.together]:
            if self._health.chosen(decision.request.account, step.model, time.monotonic()):
                _note(decision, f"health: {step.model} is tried again")
        if trace.gain is not None and (share := self._share(decision.request, ready)):
            share.follow(trace.gain, strong=trace.lead in ready.compiled.strong)
        if plan.reason is not Reason.PINNED and (key := self._conversation(decision)):
            self.sessions.put(key, trace.lead, decision.decided_at)
        goal = self._goals.of(scope)
        if budget := self._goals.budgets.get(goal.key):
            trace.charged = max(plan.cost_usd, sum(step.cost_usd for step in plan.steps[: plan.together]))
            budget.spend(trace.charged, decision.decided_at)
            self.keep("budget", goal.key, astuple(budget.state))
        if trace.arm and not trace.shadow:
            self.results.planned(trace.arm)

    def team(self, generation: Generation) -> Team:
        """Return what is known of a generation's models together, and of reviews."""
        return self._ready[generation.id].team

    def _team(self, generation: Generation, groups: Groups) -> Team:
        acceptor = generation.acceptor
        separation = self._review.separation if acceptor is None else acceptor.separation
        names = {model: places[0].group for model, places in groups.items()}
        return Team(separation, generation.agreement, generation.catalogue.ids, self._review.ensemble, names)

    def like(self, other: "Policy") -> None:
        """Take over what another one spent."""
        self._goals.like(other._goals)  # noqa: SLF001 - of its own kind

    def reported(self, decision: Decision, rating: Rating) -> None:
        """Take in how a call went."""
        outcome, trace, plan = rating.outcome, decision.trace, decision.plan
        if outcome is None or plan is None:
            return
        step = next((s for s in plan.steps if s.model == rating.model), None)
        self._correct(decision, rating, step)
        if trace.arm and not trace.shadow and not trace.judged:
            trace.judged = self.results.judged(trace.arm, rating.quality, ok=outcome is Outcome.OK)
        if outcome.name in rating.known:  # a later word on the same call, such as a user's; another end is another call
            return
        self._health.reported(decision.request.account, rating.model, outcome, rating.latency_s, time.monotonic())
        # The answer came from a dearer model than was thought to do: the conversation has shown that it needs it.
        dearer = step is not None and plan.shape is Shape.SINGLE and step.cost_usd > plan.steps[0].cost_usd
        if dearer and outcome is Outcome.OK and (key := self._conversation(decision)):
            self.sessions.put(key, rating.model, time.time())

    def _correct(self, decision: Decision, rating: Rating, step: Estimate | None) -> None:
        """Put what a call cost in the place of what was expected, once for each call."""
        goal, trace = self._goals.of(decision.request.scope), decision.trace
        budget = self._goals.budgets.get(goal.key)
        if budget is None or trace.charged is None or (rating.again and not rating.new("cost_usd")):
            return
        expected = step.cost_usd if step is not None else 0.0
        cost = expected if rating.cost_usd is None else rating.cost_usd
        budget.correct(cost - (expected if rating.again else trace.charged))
        trace.charged = 0.0
        self.keep("budget", goal.key, astuple(budget.state))

    def open_circuits(self) -> int:
        """Return how many models are left alone now, counted in every scope."""
        return self._health.open()

    def spent_usd(self) -> float:
        """Return what counts against all monthly budgets, in USD."""
        return sum(budget.state.usd for budget in self._goals.budgets.values())

    def _avoided(self, decision: Decision) -> Collection[str]:
        avoided = self._health.avoided(decision.request.account, time.monotonic())
        if avoided:
            _note(decision, f"health: the circuit of {', '.join(avoided)} is open")
        return avoided

    def _rank(
        self, request: Request, known: Known, generation: Generation, tokens: float, avoid: Collection[str] = ()
    ) -> tuple[Ranking, RouteOptions]:
        goal = self._goals.of(request.scope)
        route = weigh(request.route, goal, self._goals.budgets.get(goal.key))
        ranking = rank(
            known,
            route,
            generation.catalogue,
            tokens=tokens,
            fallback=self._ready[generation.id].fallback,
            avoid=avoid,
            bound=not goal.followed or request.route.willingness_to_pay is not None,
        )
        return ranking, route

    def _share(self, request: Request, ready: Ready) -> StrongShare | None:
        """Return the share to follow, unless the request has a price of its own."""
        if not ready.shares or request.route.willingness_to_pay is not None:
            return None
        return ready.shares.get(self._goals.of(request.scope).key)

    def _lead(
        self, decision: Decision, request: Request, ranking: Ranking, known: Known, route: RouteOptions, ready: Ready
    ) -> tuple[Ranking, float | None, list[str]]:
        """Return the ranking led as share and session would have it, the gain of a strong model, and why."""
        gained, said = None, list[str]()
        if ranking.reason is Reason.PINNED:
            return ranking, gained, said
        if share := self._share(request, ready):
            ranking, gained, why = by_share(ranking, share, ready.compiled.strong)
            said.append(why)
        if (last := self._last(decision)) is not None and not self._spent(request):
            worth, cost = utility(known.estimates, route), self._settings.session.switching_cost
            about = known.reason is Reason.NEIGHBOURS
            ranking, why = stay(ranking, last.model, decision.prompt.text, worth, cost, known=about)
            said += [f"session: {why}"] if why else []
        return ranking, gained, said

    def _explored(
        self, decision: Decision, ranking: Ranking, worth: Callable[[Estimate], float], ready: Ready
    ) -> Ranking:
        """Return the ranking led by a model that may be as good, now and then."""
        best, trace, settings = ranking.models[0].model, decision.trace, self._settings.exploration
        model, trace.propensity = explore(one_each(ranking, ready.groups), worth, settings, int(decision.id, 16))
        if trace.propensity < 1:
            _note(decision, f"exploration: {model}, with probability {trace.propensity:.4f}; best is {best}")
        return ranking.led_by(model)

    def _last(self, decision: Decision) -> Turn | None:
        """Return the turn before in the same conversation."""
        key = self._conversation(decision)
        return self.sessions.get(key, decision.decided_at) if key else None

    def _spent(self, request: Request) -> bool:
        """Return whether only cost counts: the budget that steers this request is used up."""
        budget = self._goals.budgets.get(self._goals.of(request.scope).key)
        return budget is not None and budget.spent and request.route.willingness_to_pay is None

    def _conversation(self, decision: Decision) -> Key | None:
        request = decision.request
        named = request.conversation_id and self._settings.session.enabled
        return (request.scope, request.conversation_id) if named else None

    def _shadow(
        self,
        decision: Decision,
        ranking: Ranking,
        known: Known,
        generation: Generation,
        tokens: float,
        avoided: Collection[str],
    ) -> None:
        """See what a shadow arm would have done where the ranking, led by share and session, is what is done."""
        name, _, arm = decision.trace.arm.partition("/")
        ready = self._ready[generation.id]
        asked = next(b.asked[arm] for b in ready.compiled.experiments if b.experiment.name == name)
        request = ask(decision.request, [asked], overrides=False)
        other, route = self._rank(request, known, generation, tokens, avoided)
        if other.models:
            other, _, _ = self._lead(decision, request, other, known, route, ready)
        would = other.models[0] if other.models else None
        self.results.compared(decision.trace.arm, ranking.models[0], would)
        named = would.model if would is not None else "no model"
        _note(decision, f"experiment: shadow arm {decision.trace.arm} would take {named}")

    def _keep_turn(self, key: Key, turn: Turn | None) -> None:
        self.keep("session", "\0".join(key), None if turn is None else (turn.model, turn.at))


def _placed(ranking: Ranking, decision: Decision, ready: Ready) -> Ranking:
    """Return the ranking with one place of each model."""
    return spread(ranking, ready.groups, fraction("deployment", decision.request.route.unit or decision.id))


def _note(decision: Decision, note: str) -> None:
    decision.notes += (("choose", note),)


def _pair(key: str) -> tuple[str, str]:
    one, _, other = key.partition("\0")
    return one, other
