"""A caller that follows plans of every shape: cascades and pairs with reviews, ensembles, single models.

    python cascade.py 127.0.0.1:50051 "What is 7 plus 8?" --shape cascade
    python cascade.py 127.0.0.1:50051 "What is 7 plus 8?" --shape ensemble --first-answer ""

Models are simulated: each says the same, but for the first one called, which says --first-answer where that is given.
Each step prints one JSON line. What to do when Waypost is busy or away is in caller.py, and left out here.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

DEADLINE_S = 2.0
OPTIONS = (("grpc.enable_http_proxy", 0),)  # Waypost is next door: no http_proxy would find it there
CallModel = Callable[[str, str], str]


class Follower:
    """Follows the plan of one decision."""

    def __init__(
        self,
        router: router_pb2_grpc.RouterStub,
        call_model: CallModel,
        decision: router_pb2.DecideResponse,
        prompt: str,
    ) -> None:
        self.router, self.decision, self.prompt = router, decision, prompt
        self.call_model = call_model
        self.pool = ThreadPoolExecutor()
        self.calls: dict[str, Future[str]] = {}

    def follow(self) -> tuple[str, str]:
        """Returns the model whose answer is kept, and the answer."""
        steps = list(self.decision.plan.steps)
        with self.pool:
            if self.decision.plan.shape == types_pb2.PLAN_SHAPE_ENSEMBLE:
                return self.combine(steps)
            return self.in_order(steps)

    def in_order(self, steps: Sequence[types_pb2.Step]) -> tuple[str, str]:
        """Goes from step to step until an answer is good enough; the best so far is kept for the end."""
        best = (-1.0, "", "")
        for i, step in enumerate(steps):
            # The steps behind this one that are to be started together with it.
            together = i
            while together + 1 < len(steps) and steps[together + 1].with_previous:
                together += 1
            for started in steps[i : together + 1]:
                self.start(started.model)
            try:
                answer = self.calls[step.model].result()
            except Exception as error:  # noqa: BLE001 - whatever went wrong with a model, the next one may work
                show("call", model=step.model, ok=False, error=str(error))
                self.report(step.model, "", types_pb2.OUTCOME_ERROR)
                continue
            show("call", model=step.model, ok=True)
            if not step.HasField("accept_at"):  # the plan asks for no review: this is the answer
                return self.keep(step.model, answer)
            review = self.review(step.model, answer)
            best = max(best, (review.p_acceptable, step.model, answer))
            if review.verdict == types_pb2.VERDICT_ACCEPT:
                return self.keep(step.model, answer)
        if not best[1]:
            raise RuntimeError("no model answered")
        return self.keep(best[1], best[2])

    def combine(self, steps: Sequence[types_pb2.Step]) -> tuple[str, str]:
        """Calls all at once, then takes the heaviest group of equal answers, or the one with the best review."""
        for step in steps:
            self.start(step.model)
        answers = {step.model: self.calls[step.model].result() for step in steps}
        if self.decision.plan.combine == types_pb2.COMBINE_WEIGHTED_VOTE:
            groups: dict[str, list[types_pb2.Step]] = {}
            for step in steps:
                # What counts as saying the same is yours to tell: here, the same words.
                groups.setdefault(" ".join(answers[step.model].split()).casefold(), []).append(step)
            heaviest = max(groups.values(), key=lambda group: sum(map(weight, group)))
            show("vote", groups=[[step.model for step in group] for group in groups.values()])
            if len(heaviest) > 1:
                return self.keep(heaviest[0].model, answers[heaviest[0].model])
        best = max(answers, key=lambda model: self.review(model, answers[model]).p_acceptable)
        return self.keep(best, answers[best])

    def start(self, model: str) -> None:
        """Starts a call, unless it was started already."""
        if model not in self.calls:
            show("start", model=model)
            self.calls[model] = self.pool.submit(self.call_model, model, self.prompt)

    def review(self, model: str, answer: str) -> router_pb2.ReviewResponse:
        """Asks whether an answer will do. A judge of your own goes into `score`, log-probabilities beside it."""
        request = router_pb2.ReviewRequest(decision_id=self.decision.decision_id, model=model, answer=answer)
        response = self.router.Review(request, timeout=DEADLINE_S)
        show(
            "review",
            model=model,
            verdict=types_pb2.Verdict.Name(response.verdict),
            next_model=response.next_model,
            p_acceptable=round(response.p_acceptable, 3),
        )
        return response

    def keep(self, model: str, answer: str) -> tuple[str, str]:
        """Cancels what still runs, and reports the answer that is kept, with the fill token."""
        for other, call in self.calls.items():
            if other != model and not call.done():
                call.cancel()
        self.report(model, answer, types_pb2.OUTCOME_OK)
        show("answer", model=model, content=answer)
        return model, answer

    def report(self, model: str, answer: str, outcome: types_pb2.Outcome) -> None:
        """Says what happened. Add `quality` where you learn how good the answer was: it teaches the reviews."""
        request = router_pb2.ReportRequest(decision_id=self.decision.decision_id, model=model, outcome=outcome)
        if outcome == types_pb2.OUTCOME_OK:
            request.fill_token, request.answer = self.decision.plan.fill_token, answer
        response = self.router.Report(request, timeout=DEADLINE_S)
        show("report", model=model, stored=response.stored)


def weight(step: types_pb2.Step) -> float:
    """Returns what a step's vote weighs: the log-odds that it is right."""
    quality = min(max(step.quality, 0.01), 0.99)
    return math.log(quality / (1 - quality))


def show(step: str, **fields: object) -> None:
    """Prints one step as a JSON line."""
    print(json.dumps({"step": step, **fields}), flush=True)


def simulated(first_answer: str | None) -> CallModel:
    """Stands in for models, so that this example runs with nothing else."""
    firsts = iter([] if first_answer is None else [first_answer])

    def call(model: str, prompt: str) -> str:
        del model
        return next(firsts, f"The answer to {prompt!r} is known to all of us.")

    return call


def main() -> None:
    """Asks for a plan of the wanted shape and follows it."""
    shapes = {name.removeprefix("PLAN_SHAPE_").lower(): value for name, value in types_pb2.PlanShape.items() if value}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="host:port or unix:/path")
    parser.add_argument("prompt")
    parser.add_argument("--scope", default="examples")
    parser.add_argument("--shape", choices=shapes, default="cascade")
    parser.add_argument("--min-quality", type=float)
    parser.add_argument("--first-answer", help="what the first model that is called says")
    options = parser.parse_args()

    with grpc.insecure_channel(options.address, options=OPTIONS) as channel:
        router = router_pb2_grpc.RouterStub(channel)
        route = types_pb2.RouteControl(shape=shapes[options.shape], min_quality=options.min_quality)
        request = router_pb2.DecideRequest(scope=options.scope, prompt=options.prompt, route=route)
        decision = router.Decide(request, timeout=DEADLINE_S)
        if decision.WhichOneof("outcome") == "answer":
            show("answer", model=decision.answer.model, content=decision.answer.content)
            return
        plan = decision.plan
        show(
            "decide",
            shape=types_pb2.PlanShape.Name(plan.shape),
            steps=[
                {"model": s.model, **({"accept_at": round(s.accept_at, 3)} if s.HasField("accept_at") else {})}
                for s in plan.steps
            ],
            infeasible=list(plan.infeasible),
        )
        if plan.steps:
            Follower(router, simulated(options.first_answer), decision, options.prompt).follow()


if __name__ == "__main__":
    main()
