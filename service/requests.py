"""The values a decision is made from and what it results in; the contract's words without its messages.

`service.convert` makes these from protobuf and back; everything inward of it speaks only these.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.estimator import NEIGHBOURS
from index.records import Answer, Message, Reference
from index.text import EMPTY_CONTEXT, Context
from index.view import Entry

DEFAULT_SCOPE = "default"
_CHARACTERS_PER_TOKEN: Final = 4.0
# The lease of a decision whose fill token was lost with the process that gave it out.
LAPSED = -1.0


class CacheMode(enum.Enum):
    """What the cache may do; values are the contract's."""

    DEFAULT = 1
    EXACT_ONLY = 2
    BYPASS = 3
    REFRESH = 4


class Reason(enum.Enum):
    """Why a plan names its first model; values are the contract's."""

    NEIGHBOURS = 1
    FALLBACK = 2
    PINNED = 3
    DEGRADED = 4
    CONSTRAINED = 5


class Shape(enum.Enum):
    """The form of a plan; values are the contract's."""

    SINGLE = 1
    CASCADE = 2
    SPECULATIVE = 3
    ENSEMBLE = 4


class Combine(enum.Enum):
    """How the answers of an ensemble become one; values are the contract's."""

    NONE = 0
    WEIGHTED_VOTE = 1
    BEST_REVIEWED = 2


class Outcome(enum.Enum):
    """How a model call ended; values are the contract's."""

    OK = 1
    ERROR = 2
    TIMEOUT = 3
    REFUSED = 4
    CANCELLED = 5


def tokens_of(characters: int) -> float:
    """Return about how many tokens a text of so many characters is."""
    return characters / _CHARACTERS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How the cache takes part in one decision. Times in seconds."""

    mode: CacheMode = CacheMode.DEFAULT
    max_age: float | None = None
    error_budget: float | None = None
    wait: float = 0.0

    @property
    def reads(self) -> bool:
        """Whether an answer may be served."""
        return self.mode in (CacheMode.DEFAULT, CacheMode.EXACT_ONLY)

    @property
    def fills(self) -> bool:
        """Whether the model's answer may be stored."""
        return self.mode is not CacheMode.BYPASS


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What is asked of the plan, by the caller or by the policy. Models are ids of the catalogue.

    `limits` are the policy's own: what each is called, and the models it leaves. `latency_weight`: points of quality
    that a second is worth. `unit`: what experiments assign by. `shape` of None: SINGLE, unless a rule says otherwise.
    `able` are the models that have what `require` and `min_quality` ask, once a decision knows them; None: all.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    require: frozenset[str] = frozenset()
    max_cost_usd: float | None = None
    max_latency_s: float | None = None
    min_quality: float | None = None
    willingness_to_pay: float | None = None
    output_tokens: int | None = None
    pin: str = ""
    latency_weight: float | None = None
    limits: tuple[tuple[str, frozenset[str]], ...] = ()
    unit: str = ""
    shape: Shape | None = None
    able: frozenset[str] | None = None

    @property
    def least_quality(self) -> float:
        """The quality that each single model must reach: of other shapes the whole plan must, not each step."""
        return self.min_quality or 0.0 if self.shape in {None, Shape.SINGLE} else 0.0

    def admits(self, model: str) -> bool:
        """Return whether an answer of this model is wanted at all, be it a cached one."""
        if self.limits and any(model not in admitted for _, admitted in self.limits):
            return False
        if self.able is not None and model not in self.able:
            return False
        if self.pin:
            return model == self.pin
        return (not self.allow or model in self.allow) and model not in self.deny


NO_CACHE_OPTIONS, NO_ROUTE_OPTIONS = CacheOptions(), RouteOptions()
NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready to be looked up: its text is canonical.

    `context` and `key` are as in `Answer`; `turns` counts the user's turns; `size` is the length of all that a
    model would read, in characters; `exact_only` says why it is hit exactly or not at all, "" where that is not so.
    """

    text: str
    key: bytes
    context: bytes = EMPTY_CONTEXT
    turns: int = 1
    size: int = 0
    exact_only: str = ""

    @property
    def input_tokens(self) -> float:
        """About how many tokens a model would read."""
        return tokens_of(self.size)


def account_of(scope: str, private_to: str) -> str:
    """Return the name under which is kept what verdicts say: a scope's, or a principal's where they share a scope.

    Who may not say what others are served may not say either what is good enough for them.
    """
    return f"{scope}\0{private_to}" if private_to else scope


def source_of(name: str, private_to: str) -> str:
    """Return the name of a source of quality, a principal's own where they share a scope: one may not be another's."""
    return f"{private_to}\0{name}" if private_to else name


def owner_of(source: str) -> str:
    """Return whose source it is, "" for everyone's in the scope."""
    return source.rpartition("\0")[0]


# What is made for every decision, some of it by the dozen: a named tuple is made in a fifth of a dataclass's time.
class Request(NamedTuple):
    """One prompt to decide on.

    `role` says whose turn the text is: "user" or "tool". `private_to` is who asks, where what is stored for it is not
    everyone's in the scope at once.
    """

    scope: str
    text: str
    history: tuple[Message, ...] = ()
    context: Context | None = None
    cache: CacheOptions = NO_CACHE_OPTIONS
    route: RouteOptions = NO_ROUTE_OPTIONS
    conversation_id: str = ""
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    explain: bool = False
    request_id: str = ""
    role: str = "user"
    private_to: str = ""

    @property
    def account(self) -> str:
        """Whose verdicts count where an answer may be served: see `account_of`."""
        return account_of(self.scope, self.private_to)


class Estimate(NamedTuple):
    """What is expected of one model: quality 0 to 1 with its lower bound, cost in USD, latency in seconds.

    `doubt` is what its gain over the fallback must exceed: as much could be chance.
    """

    model: str
    quality: float
    quality_low: float
    cost_usd: float
    latency_s: float | None
    doubt: float = 0.0


class Neighbour(NamedTuple):
    """A reference that voted, with its cosine to the prompt and its share of the vote."""

    reference: Reference
    similarity: float
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Voters:
    """The references an estimate rests on: rows of a generation's, and live ones of the scope with their cosine.

    Which `neighbours` these are is worked out only when somebody asks for an explanation.
    """

    references: Sequence[Reference]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    live: tuple[tuple[float, Reference], ...] = ()
    weight: float = 0.0  # of each; 0: all of them together weigh 1

    def every_similarity(self) -> NDArray[np.float32]:
        """Return the cosines, live ones last."""
        if not self.live:
            return self.similarities
        return np.concatenate((self.similarities, np.array([s for s, _ in self.live], np.float32)))

    def order(self) -> NDArray[np.int64]:
        """Return the places of the nearest of both, nearest first."""
        if not self.live:
            return np.arange(len(self.rows))
        return np.argsort(-self.every_similarity(), kind="stable")[:NEIGHBOURS]

    def neighbours(self, most: int = NEIGHBOURS) -> tuple[Neighbour, ...]:
        """Return who voted, or the `most` nearest of them, nearest first: all weigh the same."""
        order, known = self.order(), len(self.rows)
        weight = self.weight or 1 / max(len(order), 1)
        near = order[:most]
        similarities, rows = self.every_similarity()[near].tolist(), self.rows.tolist()
        return tuple(
            Neighbour(self.references[rows[i]] if i < known else self.live[i - known][1], similarity, weight)
            for i, similarity in zip(near.tolist(), similarities, strict=True)
        )

    def alone(self, most: int) -> "Voters":
        """Return the `most` nearest of them, which hold on to nothing of the generation but themselves."""
        near = self.neighbours(most)
        return Voters(
            [one.reference for one in near],
            np.arange(len(near)),
            np.array([one.similarity for one in near], np.float32),
            weight=near[0].weight if near else 0.0,
        )


NO_VOTERS: Final = Voters((), np.empty(0, np.int64), np.empty(0, np.float32))


class Judged(NamedTuple):
    """A cached answer that was near, and what is thought of it.

    `probability` that it is right (None: cannot be told, the encoder is not the one the verifier was fitted for) is 0
    where a check refused it; `refused_by` names the check, "" where it may be served. `margin` is its lead in cosine
    over the best other answer, `agreement` the share of near answers that are the same; `features` stand in the order
    of `index.verifier.FEATURES`, () where they were not needed.
    """

    entry: Entry
    similarity: float
    probability: float | None
    refused_by: str
    margin: float = 0.0
    agreement: float = 0.0
    features: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """A likely hit as it was decided on: what a verdict on it teaches.

    `evidence` is what the learner looked at, `error` (0 to 1) what it said, `budget` that of the request, `bearable`
    the largest error that it bore then. `chance` is the probability with which a model was to be asked; `audit` tells
    whether it was, though the answer could be served. `check` is the one of the guard that refuses the answer, "" where
    none does.
    """

    entry: Entry
    evidence: tuple[float, ...]
    error: float
    budget: float
    bearable: float
    chance: float
    audit: bool
    check: str = ""


class Record(NamedTuple):
    """What came of a stored answer: how often it was used, its further wordings, and verdicts, right and wrong."""

    uses: int
    wordings: Sequence[str]
    right: float
    wrong: float


@dataclass(slots=True)
class Hit:
    """A cached answer to serve; `p_correct` is not told for an exact hit; a `stale` one lapsed and is fetched anew.

    Once it was served, the `answer` is here without its text.
    `matched` is the prompt that was found: what the answer was stored for, or another wording of that.
    """

    answer: Answer
    exact: bool
    similarity: float
    matched: str
    p_correct: float | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The models to call, in order; without steps, `infeasible` says which limits left none.

    `accept_at` has the probability at which to stop for each of the first steps: the step behind these is taken as it
    comes, those behind it are for when calls fail. `priors` says how likely each of these steps is right once it is
    reached. The first `together` steps are started at once. `quality` and `cost_usd` are expected of a whole
    cascade or pair.
    """

    steps: tuple[Estimate, ...]
    confidence: float
    reason: Reason
    infeasible: tuple[str, ...] = ()
    shape: Shape = Shape.SINGLE
    accept_at: tuple[float, ...] = ()
    priors: tuple[float, ...] = ()
    together: int = 1
    combine: Combine = Combine.NONE
    quality: float = 0.0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a review said of a model's answer: the probability that it is right, and whether it was accepted.

    `next_model` is the one to call now, "" where the answer was accepted or none is left. `evidence` has what each
    source said, as log-odds or as the caller gave it, so that a later report can teach what the source is worth.
    """

    accepted: bool
    p_acceptable: float
    next_model: str = ""
    failure: str = ""
    evidence: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Timings:
    """Where the time of one decision went, in seconds; a stage that did not run stays at None."""

    total: float = 0.0
    admit: float | None = None
    normalise: float | None = None
    exact: float | None = None
    queue: float | None = None
    encode: float | None = None
    search: float | None = None
    verify: float | None = None
    estimate: float | None = None
    choose: float | None = None
    wait: float | None = None


STAGES = (
    "admit",
    "normalise",
    "exact",
    "queue",
    "encode",
    "search",
    "verify",
    "wait",
    "estimate",
    "choose",
)
stage_times: Final[Callable[[Timings], tuple[float | None, ...]]] = attrgetter(*STAGES)
"""Returns the times of all stages, in their order."""


@dataclass(slots=True)
class Trace:
    """What the policy did with one decision.

    `asked` is the request as it came; None: as it is. `rule` names the rules that matched, `stopped` is the place of
    one after which none is looked at. `arm` is "experiment/arm", which is only compared with where it is a `shadow`.
    `propensity`: with which probability the plan's first model was taken. `charged`: USD counted against a budget and
    not yet reported (None: none is). `judged`: whether its quality counts for the arm already. `lead`: the model that
    was ranked first, whatever the plan's shape makes of it. `gain`: of a strong model, where a share is followed.
    """

    asked: Request | None = None
    rule: str = ""
    arm: str = ""
    shadow: bool = False
    propensity: float = 1.0
    charged: float | None = None
    judged: bool = False
    lead: str = ""
    gain: float | None = None
    stopped: float = math.inf


@dataclass(slots=True)
class Decision:
    """What one Decide returned, and what is kept of it until it is reported, explained or forgotten.

    `request` is as the policy would have it; how that came about is in `trace`. Exactly one of `hit` and `plan` is
    set. A `fill_token` lets the answer be stored, once, until `lease_until` (seconds, monotonic). `expected` are
    the estimates before anything that reports taught, `heard` what was reported of which model, `reviews` what its
    answer came to (None: nothing yet). `taught` tells whether there was a verdict on the `trial`, `complained` whether
    the hit was reported as wrong.
    """

    id: str
    request: Request
    prompt: Prompt
    generation: str
    decided_at: float
    timings: Timings
    hit: Hit | None = None
    plan: Plan | None = None
    candidate: Judged | None = None
    judged: tuple[Judged, ...] = ()
    trial: Trial | None = None
    taught: bool = False
    complained: bool = False
    estimates: tuple[Estimate, ...] = ()
    expected: tuple[Estimate, ...] = ()
    voters: Voters | None = None
    notes: tuple[tuple[str, str], ...] = ()
    degraded: bool = False
    vector: bytes = b""
    truncated: bool = False
    fill_token: str = ""
    lease_until: float = 0.0
    reported: bool = False
    heard: Mapping[str, frozenset[str]] | None = None
    trace: Trace = field(default_factory=Trace)
    reviews: Mapping[str, Reviewed] | None = None

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """The references that voted, nearest first."""
        return self.voters.neighbours() if self.voters is not None else ()
