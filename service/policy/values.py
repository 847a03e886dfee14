"""What goes in and out of the policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.requests import Estimate, Reason

Keep = Callable[[str, str, Any], None]
"""Takes kind, key and value, to keep it across restarts; None: no longer."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the estimates say of one decision: of every model, and how much is known."""

    estimates: Sequence[Estimate]
    tokens: float
    confidence: float
    reason: Reason
