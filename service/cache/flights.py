"""Single-flight: while one caller fetches an answer, others who want it wait for it instead of fetching it as well.

Owns who holds the flight of a prompt and who waits for it. A flight begins with the plan of a miss. It ends when an
answer to its prompt is stored, or when its holder fails, is no longer connected, or lets its lease lapse. Then, of
those who wait, the first takes over with a plan of its own, and the others go on waiting for that one, each no longer
than it asked for. It never serves or stores: who is woken looks the answer up like anyone else. Runs on the event loop;
called by `service.decide` and, when something was reported or put, by the edge.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TypeVar

import numpy as np

from index.tokens import LONGEST
from service.peers import gone
from service.requests import Decision

# Callers that may wait at once; above it a plan is given at once, as to those who do not ask to wait.
MAX_WAITING = 100_000
# The newest flights of a scope and context that a prompt is compared with (0.1 ms), and the nearest that are judged.
_COMPARED, _JUDGED = 256, 4
_WATCH_EVERY_S = 0.5
# From a lapsed answer to the plan for a new one: an embedding, also when many wait for theirs.
_BEGIN_WITHIN_S = 5.0

_Key = TypeVar("_Key")


@dataclass(eq=False, slots=True)
class Flight:
    """An answer that is being fetched.

    `until` is on the clock of perf_counter; `peer` names the holder's connection; without a `vector` it is found by its
    key only.
    """

    key: bytes
    place: tuple[str, bytes]
    holder: str
    private_to: str
    model: str
    peer: str
    until: float
    text: str = ""
    vector: bytes = b""
    waiting: dict["asyncio.Future[bool]", None] = field(default_factory=dict)  # in the order in which they came


class Flights:
    """All flights there are.

    Args:
        limit: flights at once; of more, the oldest are given up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._flights: OrderedDict[str, Flight] = OrderedDict()  # by holder, oldest first
        self._by_key: dict[bytes, dict[str, Flight]] = {}  # and then by whom the answer will be for
        self._near: dict[tuple[str, bytes], dict[str, Flight]] = {}  # those with a vector, by holder, oldest first
        self._begun: OrderedDict[bytes, float] = OrderedDict()  # flights that are about to begin, until when
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self.waiting = 0
        self.answered = 0

    def __len__(self) -> int:
        return len(self._flights)

    async def join(
        self, decision: Decision, until: float, alike: Callable[[float, str], bool] | None
    ) -> tuple[bytes, float] | None:
        """Wait for the answer that another caller fetches.

        Args:
            decision: of the caller, with its vector where it has one.
            until: how long it may wait (perf_counter).
            alike: whether the answer to another prompt, at a cosine, with a text, would do; None: only to the same.

        Returns:
            Key and cosine of the prompt whose answer was stored, or None where this caller has to fetch it itself.
        """
        while not self._closed and self.waiting < MAX_WAITING and perf_counter() < until:
            found = self._find(decision, alike)
            if found is None:
                return None
            flight, similarity = found
            if await self._wait(flight, min(until, flight.until)):
                self.answered += 1
                return flight.key, similarity
            if perf_counter() >= flight.until:
                self._end(flight)
        return None

    def lead(self, decision: Decision, *, near: bool, peer: str = "") -> None:
        """Let this decision hold the flight of its prompt from now on; who waits for it goes on waiting.

        Args:
            decision: has a plan and a fill token.
            near: whether the answer may be served to prompts that mean the same.
            peer: the connection it came by, as gRPC names it.
        """
        prompt, plan = decision.prompt, decision.plan
        if self._closed or plan is None:
            return
        private_to = decision.request.private_to
        before = self._by_key.get(prompt.key, {}).get(private_to)
        if before is not None:
            self._forget(before)
        self._begun.pop(prompt.key, None)
        place = (decision.request.scope, prompt.context)
        flight = Flight(
            prompt.key,
            place,
            decision.id,
            private_to,
            plan.steps[0].model,
            peer,
            decision.lease_until,
            waiting=before.waiting if before is not None else {},
        )
        self._flights[decision.id] = flight
        self._by_key.setdefault(prompt.key, {})[private_to] = flight
        if near and decision.vector:
            flight.vector, flight.text = decision.vector, prompt.text[: LONGEST + 1]
            self._near.setdefault(place, {})[decision.id] = flight
        now, oldest = perf_counter(), next(iter(self._flights.values()))
        while oldest is not flight and (oldest.until <= now or len(self._flights) > self._limit):
            self._end(oldest)
            oldest = next(iter(self._flights.values()))

    def holds(self, key: bytes) -> bool:
        """Return whether somebody fetches the answer to this very prompt."""
        now = perf_counter()
        flying = any(now < flight.until for flight in self._by_key.get(key, {}).values())
        return flying or now < self._begun.get(key, 0.0)

    def begin(self, key: bytes) -> bool:
        """Return whether nobody fetches this yet, and take it that this caller will: it has a moment to `lead`."""
        if self.holds(key):
            return False
        self._begun[key] = perf_counter() + _BEGIN_WITHIN_S
        self._begun.move_to_end(key)
        if len(self._begun) > self._limit:
            self._begun.popitem(last=False)
        return True

    def stored(self, key: bytes, private_to: str) -> None:
        """Tell all who wait for it that the answer to a prompt is there, for one principal or ("") for everyone."""
        for flight in list(self._by_key.get(key, {}).values()):
            if private_to in ("", flight.private_to):
                self._forget(flight)
                _wake(flight, answered=True)

    def failed(self, decision_id: str) -> None:
        """Give up the flight that a decision holds, if it holds one: its caller will not bring the answer."""
        flight = self._flights.get(decision_id)
        if flight is not None:
            self._end(flight)

    def close(self) -> None:
        """End all flights: everyone gets a plan of its own, now and from now on."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
        for flight in list(self._flights.values()):
            self._end(flight)

    def _find(self, decision: Decision, alike: Callable[[float, str], bool] | None) -> tuple[Flight, float] | None:
        """Return the flight whose answer would do, with the cosine of its prompt."""
        request, prompt, now = decision.request, decision.prompt, perf_counter()

        def does(flight: Flight) -> bool:
            shared = flight.private_to in ("", request.private_to)
            return shared and now < flight.until and request.route.admits(flight.model)

        same = [flight for flight in self._by_key.get(prompt.key, {}).values() if does(flight)]
        if same:
            return same[0], 1.0
        place = self._near.get((request.scope, prompt.context), {})
        if not place or alike is None or not decision.vector:
            return None
        newest = [flight for flight in islice(reversed(place.values()), _COMPARED) if does(flight)]
        if not newest:
            return None
        matrix = np.frombuffer(b"".join(flight.vector for flight in newest), "<f4").reshape(len(newest), -1)
        cosines = (matrix @ np.frombuffer(decision.vector, "<f4")).clip(-1.0, 1.0)
        for i in np.argsort(-cosines)[:_JUDGED].tolist():
            if alike(float(cosines[i]), newest[i].text):
                return newest[i], float(cosines[i])
        return None

    async def _wait(self, flight: Flight, until: float) -> bool:
        """Return whether the answer was stored; False: the flight ended without, or the time is over."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        flight.waiting[future] = None
        timer = loop.call_later(max(until - perf_counter(), 0.0), _settle, future, False)
        self.waiting += 1
        if self._watcher is None:
            self._watcher = loop.create_task(self._watch())
        try:
            return await future
        finally:
            self.waiting -= 1
            timer.cancel()
            flight.waiting.pop(future, None)

    async def _watch(self) -> None:
        """As long as anyone waits, look again and again whether those who are waited for are still connected."""
        while self.waiting:
            await asyncio.sleep(_WATCH_EVERY_S)
            waited_for = {flight.peer for flight in self._flights.values() if flight.waiting and flight.peer}
            lost = await asyncio.to_thread(gone, waited_for) if waited_for else set()
            for flight in [flight for flight in self._flights.values() if flight.peer in lost]:
                self._end(flight)
        self._watcher = None

    def _end(self, flight: Flight) -> None:
        if self._flights.get(flight.holder) is flight:
            self._forget(flight)
        _wake(flight, answered=False)

    def _forget(self, flight: Flight) -> None:
        del self._flights[flight.holder]
        _drop(self._by_key, flight.key, flight.private_to)
        if flight.vector:
            _drop(self._near, flight.place, flight.holder)


def _drop(flights: dict[_Key, dict[str, Flight]], first: _Key, second: str) -> None:
    del flights[first][second]
    if not flights[first]:
        del flights[first]


def _wake(flight: Flight, *, answered: bool) -> None:
    waiting, flight.waiting = flight.waiting, {}
    for future in waiting:
        _settle(future, answered)


def _settle(future: "asyncio.Future[bool]", answered: bool) -> None:  # noqa: FBT001 - what a timer calls
    if not future.done():
        future.set_result(answered)
