"""The log: JSON lines on standard error, without prompt texts unless the settings ask for them."""

import contextlib
import logging
import os
from typing import Final

import structlog

from service.requests import Decision
from service.settings import LogSettings, Settings

_STANDARD_ERROR: Final = 2


class _StandardError:
    """Standard error, unbuffered, where nobody may listen: what cannot be written is lost, and nothing else is.

    Its reader may have ended, or its file be on a full disk, and no decision may fail for that.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(_STANDARD_ERROR, text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """There is nothing to flush."""


def configure(settings: LogSettings) -> None:
    """Set up structlog for this process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


def settings(used: Settings) -> None:
    """Say which settings are in use, secrets redacted."""
    structlog.get_logger("waypost").info("settings", **used.model_dump(mode="json"))


def decision(made: Decision, *, prompts: bool) -> None:
    """Write a line about one decision; the prompt only where the settings let it into the log."""
    outcome = "plan" if made.hit is None else "exact" if made.hit.exact else "semantic"
    step = made.plan.steps[0].model if made.plan is not None and made.plan.steps else ""
    structlog.get_logger("waypost").debug(
        "decision",
        decision=made.id,
        request=made.request.request_id,
        scope=made.request.scope,
        outcome=outcome,
        model=made.hit.answer.model if made.hit is not None else step,
        degraded=made.degraded,
        total_s=round(made.timings.total, 6),
        **({"prompt": made.prompt.text} if prompts else {}),
    )
