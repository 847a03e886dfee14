"""What a measurement is: a value with its bar, how it scattered, and what else was seen on the way."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

TIMES: Final = "×"  # noqa: RUF001 - the sign of a ratio


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row should reach: the bar decides pass or fail, the stretch is where one would like to be."""

    bar: float
    stretch: float
    unit: str = TIMES

    @property
    def lower_is_better(self) -> bool:
        """Whether less is more."""
        return self.stretch < self.bar

    def met(self, value: float, limit: float) -> bool:
        """Return whether a value is on the right side of a limit."""
        return value <= limit if self.lower_is_better else value >= limit


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report.

    Args:
        number: its place in the report, which `--only` takes.
        title: what was divided by what.
        goal: what it should reach.
        values: one for each repeat; the median counts. For a ratio both sides were measured side by side.
        seen: other medians worth knowing, by name.
        note: how it was measured, where that matters.
        skipped: why there is no value.
    """

    number: str
    title: str
    goal: Goal
    values: Sequence[float] = ()
    seen: Mapping[str, float | str] = field(default_factory=dict)
    note: str = ""
    skipped: str = ""

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Pass, stretch, fail or skipped."""
        if not self.values:
            return "skipped"
        if self.goal.met(self.value, self.goal.stretch):
            return "stretch"
        return "pass" if self.goal.met(self.value, self.goal.bar) else "fail"

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in the results file."""
        out = {"number": self.number, "title": self.title, **asdict(self.goal), "verdict": self.verdict}
        if self.values:
            out |= {"value": self.value, "min": min(self.values), "max": max(self.values)}
        return {**out, "values": list(self.values), "seen": dict(self.seen), "note": self.note, "skipped": self.skipped}


@dataclass(frozen=True, slots=True)
class Table:
    """Figures without a bar: a heading, column names and lines of cells."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str | float]]
    note: str = ""


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each named figure over some repeats."""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
