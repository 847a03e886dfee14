"""The decision journal: what Replay and refit need, on disk, written off the event loop in batches.

A decision is handed over as it is; a thread of its own turns it into a row. If that thread cannot keep up, or the disk
takes nothing, rows are dropped and counted, and decisions go on. Exact hits are not recorded: they have no embedding,
and no other generation or setting of routing would have decided otherwise.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import structlog
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from index.errors import StoreError
from index.generation import Generation
from index.records import Answer, Message, Reference
from index.sqlite_journal import DecisionRow, ReportRow, SqliteJournal
from index.text import EMPTY_CONTEXT, canonical
from service.decisions import text_size
from service.requests import (
    LAPSED,
    CacheMode,
    CacheOptions,
    Decision,
    Estimate,
    Hit,
    Outcome,
    Plan,
    Prompt,
    Request,
    RouteOptions,
    Timings,
    Trace,
    Voters,
)
from service.settings import JournalSettings

_log = structlog.get_logger("waypost")
_EVERY_S: Final = 0.5
# How often it is seen to that the file is no larger than it may be: at full load it grows by megabytes a second.
_PRUNE_EVERY_S: Final = 5.0
# What is too old goes a minute's worth at a time.
_OLD_EVERY_S: Final = 60.0
# What may wait to be written, and how much text that may be. Above it the newest are dropped.
_WAITING: Final = 20_000
_WAITING_BYTES: Final = 64 << 20
# Rows are made so many at a time, and then whoever waits for the interpreter goes first: about 0.5 ms.
_AT_ONCE: Final = 16
_NEIGHBOURS: Final = 10
_ROUTE, _CACHE, _PLAN = TypeAdapter(RouteOptions), TypeAdapter(CacheOptions), TypeAdapter(Plan | None)
_ESTIMATES: Final = TypeAdapter(tuple[Estimate, ...])


@dataclass(frozen=True, slots=True)
class Rating:
    """What a caller said of one model's answer; None is what was not said. Latency in seconds.

    `source` is who says so: the caller's token, and whom it names. `expected` is the quality that was estimated for
    this model before anything that reports had taught. `known` names what earlier reports on this model of the decision
    said: what counts calls or adds up leaves that out.
    """

    model: str
    outcome: Outcome | None
    quality: float | None = None
    source: str = ""
    cost_usd: float | None = None
    latency_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    wrong: bool = False
    expected: float | None = None
    known: frozenset[str] = frozenset()

    @property
    def again(self) -> bool:
        """Whether this model was reported on before."""
        return "outcome" in self.known

    def new(self, name: str) -> bool:
        """Return whether a fact ("quality", "cost_usd", "latency_s") is here and was not before."""
        return getattr(self, name) is not None and name not in self.known

    def said(self) -> frozenset[str]:
        """Return what is known of the call once this is taken in."""
        outcome = {"outcome", self.outcome.name if self.outcome is not None else "cached"}
        return self.known | outcome | {name for name in ("quality", "cost_usd", "latency_s") if self.new(name)}


class Journal:
    """Decisions and reports on their way to the disk.

    Args:
        file: where they go; closed by `close`.
        settings: what is recorded, and how much of it is kept.
        encoder_digest: of the encoder that embeds prompts.
    """

    def __init__(self, file: SqliteJournal, settings: JournalSettings, encoder_digest: str) -> None:
        self.file = file
        self.written = self.dropped = 0
        self._settings = settings
        self._encoder = encoder_digest
        self._waiting: deque[Decision | tuple[str, float, Rating]] = deque()
        self._came = self._went = 0  # bytes of text so far: one is counted on the event loop, one on the thread
        self._wake = threading.Event()
        self._flushing = threading.Lock()
        self._closing = False
        self._failing = False
        self._pruned_at = 0.0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def decided(self, decision: Decision) -> None:
        """Record a decision, soon."""
        if decision.hit is None or not decision.hit.exact:
            self._put(decision)

    def reported(self, decision: Decision, rating: Rating) -> None:
        """Record a report, soon."""
        self._put((decision.id, time.time(), rating))

    def flush(self) -> None:
        """Write all that waits: for who reads the file next. Blocks; not for the event loop."""
        with self._flushing:
            while self._waiting:
                items = [self._waiting.popleft() for _ in range(min(len(self._waiting), 500))]
                self._went += sum(text_size(item) for item in items if isinstance(item, Decision))
                decisions: list[DecisionRow] = []
                for start in range(0, len(items), _AT_ONCE):
                    decisions += [
                        self._row(item) for item in items[start : start + _AT_ONCE] if isinstance(item, Decision)
                    ]
                    time.sleep(0)  # lets the event loop go first
                reports = [_report(*item) for item in items if not isinstance(item, Decision)]
                self._append(decisions, reports)
            if time.monotonic() - self._pruned_at > _PRUNE_EVERY_S:
                self._pruned_at = time.monotonic()
                self._try(self._prune)

    def forget(self, scope: str, source: str) -> int:
        """Take back what a source said of quality in a scope; return how many reports that were. Blocks."""
        self.flush()
        return self.file.forget(scope, source)

    def close(self) -> None:
        """Write what waits, stop the thread and close the file."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self.flush()
        self.file.close()

    def _put(self, item: Decision | tuple[str, float, Rating]) -> None:
        size = text_size(item) if isinstance(item, Decision) else 0
        if len(self._waiting) >= _WAITING or (size and self._came - self._went + size > _WAITING_BYTES):
            self.dropped += 1
        else:
            self._came += size
            self._waiting.append(item)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_EVERY_S)
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - a row that cannot be made must not end the thread
                self.dropped += 1
                _log.exception("journal_failed")

    def _append(self, decisions: list[DecisionRow], reports: list[ReportRow]) -> None:
        if self._try(lambda: self.file.append(decisions, reports)):
            self.written += len(decisions) + len(reports)
        else:
            self.dropped += len(decisions) + len(reports)

    def _prune(self) -> None:
        oldest = time.time() - self._settings.keep_days * 86_400
        self.file.prune(oldest - oldest % _OLD_EVERY_S, self._settings.max_mib << 20)

    def _try(self, write: Any) -> bool:
        """Return whether the file took it; say so once where it does not, and once where it does again."""
        try:
            write()
        except (StoreError, UnicodeEncodeError) as error:
            if not self._failing:
                _log.warning("journal_not_written", why=str(error))
            self._failing = True
            return False
        if self._failing:
            _log.info("journal_written_again", dropped=self.dropped)
        self._failing = False
        return True

    def _row(self, decision: Decision) -> DecisionRow:
        trace, prompt, hit, plan = decision.trace, decision.prompt, decision.hit, decision.plan
        request = trace.asked or decision.request  # as it came: a replay applies the policy anew
        texts = self._settings.prompts and request.cache.mode is not CacheMode.BYPASS
        asked: dict[str, Any] = {
            "route": _ROUTE.dump_python(request.route, mode="json", exclude_defaults=True),
            "cache": _CACHE.dump_python(request.cache, mode="json", exclude_defaults=True),
            "attributes": dict(request.attributes),
            "conversation_id": request.conversation_id,
            "request_id": request.request_id,
            "role": request.role,
            "history": [[m.role, m.content] for m in request.history] if texts else [],
        }
        if hit is not None:
            answer = hit.answer
            outcome = to_json([answer.id, answer.model, answer.stored_at, hit.similarity]).decode()
        else:
            outcome = _PLAN.dump_json(plan).decode()
        near = decision.voters.neighbours(_NEIGHBOURS) if decision.voters is not None else ()
        explained = {
            "neighbours": [[n.reference.id, n.similarity, n.weight] for n in near],
            "notes": decision.notes,
            "expected": None if decision.expected is decision.estimates else decision.expected,
            "degraded": decision.degraded,
            "truncated": decision.truncated,
            "total_s": decision.timings.total,
            "policy": [trace.rule, trace.arm, trace.shadow, trace.propensity],
        }
        first = plan.steps[0].model if plan is not None and plan.steps else ""
        return DecisionRow(
            id=decision.id,
            at=decision.decided_at,
            scope=request.scope,
            generation=decision.generation,
            encoder=self._encoder,
            model=hit.answer.model if hit is not None else first,
            cached=int(hit is not None),
            key=prompt.key,
            prompt=request.text if texts else None,
            size=prompt.size,
            turns=prompt.turns,
            vector=decision.vector,
            request=to_json(asked).decode(),
            outcome=outcome,
            estimates=to_json(decision.estimates).decode(),
            explained=to_json(explained).decode(),
        )


def _report(decision_id: str, at: float, rating: Rating) -> ReportRow:
    return ReportRow(
        decision=decision_id,
        at=at,
        model=rating.model,
        outcome=rating.outcome.name.lower() if rating.outcome else "cached",
        quality=rating.quality,
        source=rating.source,
        cost_usd=rating.cost_usd,
        latency_s=rating.latency_s,
        input_tokens=rating.input_tokens,
        output_tokens=rating.output_tokens,
        wrong=int(rating.wrong),
        expected=rating.expected,
    )


def restored(row: DecisionRow, generation: Generation | None = None) -> Decision:
    """Return the decision of a row: as it was made, but for what is not recorded (context, fill token, timings).

    Args:
        row: from the journal.
        generation: where the neighbours' texts are looked for; None leaves them out.
    """
    asked, explained = from_json(row.request), from_json(row.explained)
    text = row.prompt if row.prompt is not None else ""
    request = Request(
        scope=row.scope,
        text=text,
        history=tuple(Message(role, content) for role, content in asked["history"]),
        cache=_CACHE.validate_python(asked["cache"]),
        route=_ROUTE.validate_python(asked["route"]),
        conversation_id=asked["conversation_id"],
        attributes=asked["attributes"],
        request_id=asked["request_id"],
        role=asked["role"],
    )
    prompt = Prompt(canonical(text), row.key, EMPTY_CONTEXT, row.turns, row.size)
    decision = Decision(
        row.id, request, prompt, row.generation, row.at, Timings(total=explained["total_s"]), vector=row.vector
    )
    decision.estimates = _ESTIMATES.validate_json(row.estimates)
    expected = explained["expected"]
    decision.expected = decision.estimates if expected is None else _ESTIMATES.validate_python(expected)
    decision.notes = tuple((stage, note) for stage, note in explained["notes"])
    decision.degraded, decision.truncated = explained["degraded"], explained["truncated"]
    rule, arm, shadow, propensity = explained.get("policy", ("", "", False, 1.0))
    decision.trace = Trace(None, rule, arm, shadow, propensity, judged=True)
    decision.reported = True  # what was counted before is not counted again
    decision.lease_until = LAPSED
    if row.cached:
        entry, model, stored_at, similarity = from_json(row.outcome)
        answer = Answer(entry, row.scope, row.key, EMPTY_CONTEXT, "", "", model, row.encoder, b"", stored_at=stored_at)
        decision.hit = Hit(answer, exact=False, similarity=similarity, matched="")
    else:
        decision.plan = _PLAN.validate_json(row.outcome)
    if generation is not None:
        near = explained["neighbours"]
        wanted = {name for name, _, _ in near}
        known = {r.id: r for r in generation.references if r.id in wanted}
        decision.voters = Voters(
            [known.get(name) or Reference(name, "") for name, _, _ in near],
            np.arange(len(near)),
            np.array([similarity for _, similarity, _ in near], np.float32),
            weight=near[0][2] if near else 0.0,
        )
    return decision
