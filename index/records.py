"""The values that cross modules: what is known about prompts, answers and models.

Plain frozen data without behaviour beyond what can be derived from it. Everyone imports this; it imports nothing
of Waypost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_COST_USD: Final = 1_000_000
"""The most that one call may be said to have cost."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A labelled prompt: the best model for it, or a score (and cost) per model.

    Exactly one of `best_model` and `scores` is given; both hold ids of the catalogue, aliases are resolved
    when a reference is read. `prompt` is the text that is embedded: for a conversation, its last turn.
    `scores` are 0 to 1, `costs` USD; models may be missing from either.
    """

    id: str
    prompt: str
    best_model: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    category: str = ""
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A cached answer, with the prompt, context and model that produced it.

    `key` (32 bytes) is what an exact hit matches: scope, context and canonical text. `context` (16 bytes) is
    the fingerprint a semantic hit must share. `vector` is the prompt's embedding as little-endian float32
    bytes, of the encoder with digest `encoder`. Times are seconds since the epoch; `expires_at` of 0: never.
    `meaning` is the same for answers that are: a digest of the content, or that of an answer this one was found
    equivalent to; b"" where it was stored before there was one. Where `wording_of` names another answer of the scope,
    this is a further prompt that has the same: it has no content of its own.
    `cost_usd` is what a hit saves, `size` the bytes of its texts. `private_to` names the only principal it may be
    served to; "": everyone in the scope.
    """

    id: str
    scope: str
    key: bytes
    context: bytes
    prompt: str
    content: str
    model: str
    encoder: str
    vector: bytes
    stored_at: float
    expires_at: float = 0.0
    chunks: tuple[str, ...] = ()
    content_type: str = "text/plain"
    source_tags: tuple[str, ...] = ()
    truncated: bool = False
    meaning: bytes = b""
    wording_of: str = ""
    cost_usd: float = 0.0
    size: int = 0
    private_to: str = ""


@dataclass(frozen=True, slots=True)
class LiveReference:
    """A reference added to a running service: it votes in its scope only."""

    scope: str
    reference: Reference
    encoder: str
    vector: bytes


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the catalogue: a language model, a tool or an agent that can be called.

    Prices are USD per million tokens; `latency_ms` is the time to the first token. Models of one `group` are the same
    model at different places; each gets a share of their calls by its `weight`.
    """

    id: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    context_window: int
    tier: str = ""
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    capabilities: frozenset[str] = frozenset()
    kind: str = "model"
    aliases: tuple[str, ...] = ()
    group: str = ""
    weight: float = 1.0

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a call with so many tokens costs, in USD."""
        return (input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6

    def latency_s(self, output_tokens: float) -> float | None:
        """Return the expected time to the whole answer in seconds, or None where the catalogue is silent."""
        if self.latency_ms is None:
            return None
        decode = output_tokens / self.tokens_per_s if self.tokens_per_s else 0.0
        return self.latency_ms / 1e3 + decode
