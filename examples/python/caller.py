"""A complete caller of Waypost: decide, call a model, report; then again, to see the cached answer.

    python caller.py 127.0.0.1:50051 "What is a waypost?"
    python caller.py unix:/run/waypost.sock "What is a waypost?" --openai http://127.0.0.1:8000/v1

Nothing but Waypost has to run: without --openai the model is simulated. Each step prints one JSON
line.
"""

import argparse
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

DEFAULT_MODEL = "my-default-model"  # where requests go when Waypost can't be asked
DEADLINE_S = 2.0  # the longest to wait for Waypost; a busy service would choose far less
LONGEST_BACKOFF_S = 1.0
OPTIONS = (("grpc.enable_http_proxy", 0),)  # Waypost is next door: no http_proxy would find it there
SYSTEM_PROMPT = "You are a helpful assistant."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int


class ModelError(Exception):
    """A model, or the way to it, failed."""


CallModel = Callable[[str, str], Answer]


def simulated_model(model: str, prompt: str) -> Answer:
    """Stands in for a model, so that this example runs with nothing else."""
    text = f"This is what {model} would say to: {prompt}"
    return Answer(text, "stop", len(prompt.split()), len(text.split()))


def openai_model(base_url: str, model: str, prompt: str) -> Answer:
    """Calls any server that speaks OpenAI's chat completions. The key comes from OPENAI_API_KEY."""
    import openai

    try:
        completion = openai.OpenAI(base_url=base_url, max_retries=0).chat.completions.create(
            model=model,
            temperature=0,
            messages=[
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": prompt},
            ],
        )
    except openai.OpenAIError as error:
        raise ModelError(str(error)) from error
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        choice.message.content or "",
        choice.finish_reason,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
    )


def failing_once(call_model: CallModel) -> CallModel:
    """Makes the first call fail, to show how the plan's next step takes over."""
    failures = iter([ModelError("simulated failure")])

    def call(model: str, prompt: str) -> Answer:
        for failure in failures:
            raise failure
        return call_model(model, prompt)

    return call


class Caller:
    """A model caller that asks Waypost first, and gets by without it."""

    def __init__(self, router: router_pb2_grpc.RouterStub, call_model: CallModel, scope: str) -> None:
        self.router = router
        self.call_model = call_model
        self.scope = scope

    def answer(self, prompt: str) -> str:
        """Answers the prompt: from the cache, from the plan's models, or from the default model."""
        request = router_pb2.DecideRequest(
            scope=self.scope,
            prompt=prompt,
            # Everything else the answer depends on: callers who differ in it never share answers.
            context=types_pb2.AnswerContext(system_prompt=SYSTEM_PROMPT, sampling="temperature=0"),
        )
        try:
            decision = self.decide(request)
        except grpc.RpcError as error:
            # Waypost only advises: whatever is wrong with it, this program keeps answering.
            show("decide", outcome="failed", code=error.code().name)
            return self.answer_without_waypost(prompt)

        if decision.WhichOneof("outcome") == "answer":
            cached = decision.answer
            match = types_pb2.Match.Name(cached.match)
            show("decide", decision_id=decision.decision_id, outcome="answer", match=match)
            show("answer", source="cache", model=cached.model, content=cached.content)
            return cached.content  # nothing to report, unless someone finds out that it was wrong
        return self.follow(decision, prompt)

    def follow(self, decision: router_pb2.DecideResponse, prompt: str) -> str:
        """Calls the plan's models in order until one answers."""
        plan = decision.plan
        show(
            "decide",
            decision_id=decision.decision_id,
            outcome="plan",
            models=[step.model for step in plan.steps],
            reason=types_pb2.Reason.Name(plan.reason),
            infeasible=list(plan.infeasible),
        )
        for step in plan.steps:
            report = router_pb2.ReportRequest(decision_id=decision.decision_id, model=step.model)
            started = time.monotonic_ns()
            try:
                answer = self.call_model(step.model, prompt)
            except ModelError as error:
                # Reported too: it is how Waypost learns that a model is down. The fill token is
                # kept back for the step that succeeds.
                report.latency.FromNanoseconds(time.monotonic_ns() - started)
                report.outcome = types_pb2.OUTCOME_ERROR
                show("call", model=step.model, ok=False, error=str(error))
                self.report(report)
                continue
            report.latency.FromNanoseconds(time.monotonic_ns() - started)
            report.outcome = types_pb2.OUTCOME_OK
            report.fill_token = plan.fill_token  # with it, the answer is stored
            report.answer = answer.text
            report.finish_reason = answer.finish_reason  # an answer that was cut off is not stored
            report.usage.input_tokens = answer.input_tokens
            report.usage.output_tokens = answer.output_tokens
            show("call", model=step.model, ok=True)
            # A server would hand out its answer first and report afterwards: nobody waits for it.
            self.report(report)
            show("answer", source="model", model=step.model, content=answer.text)
            return answer.text
        return self.answer_without_waypost(prompt)  # no step, or none that worked

    def decide(self, request: router_pb2.DecideRequest) -> router_pb2.DecideResponse:
        """Asks once, and once more where Waypost is busy and says when to come back."""
        try:
            return self.router.Decide(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            delay = next(retry_delays(error), None)
            if delay is None or delay > LONGEST_BACKOFF_S:
                raise
            show("backoff", code=error.code().name, seconds=delay)
            time.sleep(delay)
            return self.router.Decide(request, timeout=DEADLINE_S)

    def report(self, request: router_pb2.ReportRequest) -> None:
        """Says what happened. A report that fails costs a cache entry, never an answer."""
        outcome = types_pb2.Outcome.Name(request.outcome)
        try:
            response = self.router.Report(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            show("report", model=request.model, outcome=outcome, code=error.code().name)
        else:
            show(
                "report",
                model=request.model,
                outcome=outcome,
                stored=response.stored,
                entry_id=response.entry_id,
                not_stored_because=response.not_stored_because,
            )

    def answer_without_waypost(self, prompt: str) -> str:
        """Does what this program did before there was a Waypost."""
        answer = self.call_model(DEFAULT_MODEL, prompt)
        show("answer", source="default_model", model=DEFAULT_MODEL, content=answer.text)
        return answer.text


def retry_delays(error: grpc.RpcError) -> Iterator[float]:
    """Yields the seconds in RetryInfo, which comes with RESOURCE_EXHAUSTED."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info = RetryInfo()
            if detail.Unpack(info):
                yield info.retry_delay.ToTimedelta().total_seconds()


def show(step: str, **fields: object) -> None:
    """Prints one step as a JSON line."""
    print(json.dumps({"step": step, **fields}), flush=True)


def main() -> None:
    """Answers one prompt twice: first by a model, then from the cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="host:port or unix:/path")
    parser.add_argument("prompt")
    parser.add_argument("--scope", default="examples")
    parser.add_argument("--fail-first", action="store_true", help="let the first model call fail")
    parser.add_argument("--openai", metavar="BASE_URL", help="call models here, not simulated ones")
    options = parser.parse_args()

    call_model: CallModel = simulated_model
    if options.openai:
        if importlib.util.find_spec("openai") is None:
            parser.error("--openai needs the package: pip install openai")
        call_model = functools.partial(openai_model, options.openai)
    if options.fail_first:
        call_model = failing_once(call_model)
    with grpc.insecure_channel(options.address, options=OPTIONS) as channel:  # one channel per process, kept open
        caller = Caller(router_pb2_grpc.RouterStub(channel), call_model, options.scope)
        try:
            caller.answer(options.prompt)
            caller.answer(options.prompt)
        except ModelError as error:
            sys.exit(f"no model answered: {error}")


if __name__ == "__main__":
    main()
