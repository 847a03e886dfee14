"""What several commands share: options, reading the settings and periods, rows that were left out, a progress bar."""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

_LONGEST_S: Final = 1_000_000
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

Config = Annotated[Path | None, typer.Option("--config", help="Settings file; without it, defaults.")]
Index = Annotated[Path | None, typer.Option("--index", help="Index folder; overrides index.path.")]
Address = Annotated[str, typer.Option(help="host:port or unix:PATH of the service.")]
Token = Annotated[str, typer.Option(envvar="WAYPOST_TOKEN", help="Bearer token.")]


def _waits(seconds: float) -> float:
    """Return how long to wait, where a call can be given so long."""
    if not 0 < seconds <= _LONGEST_S:  # nor nan
        raise typer.BadParameter(f"{seconds}: expected seconds, above 0 and at most {_LONGEST_S:,}")
    return seconds


Timeout = Annotated[float, typer.Option(help="Seconds to wait for each call.", callback=_waits)]
LOCAL: Final = "127.0.0.1:50051"
"""Where a service listens that was told nothing else."""
References = Annotated[
    list[Path],
    typer.Option(
        "--references", help="Labelled prompts: one or several .jsonl or .jsonl.gz files, or folders of them."
    ),
]


class OnError(StrEnum):
    """What to do with a row that is wrong."""

    FAIL = "fail"
    SKIP = "skip"


def settings_of(config: Path | None, index: Path | None, data_dir: Path | None, listen: list[str] | None) -> Any:
    """Return the settings from a file, the environment and the options of a command."""
    from service.settings import load_settings

    overrides: dict[str, dict[str, Any]] = {}
    if index is not None:
        overrides["index"] = {"path": index}
    if data_dir is not None:
        overrides["store"] = {"data_dir": data_dir}
    if listen:
        overrides["server"] = {"listen": tuple(listen)}
    return load_settings(config, overrides)


def seconds_of(period: str, option: str) -> float:
    """Return a period as it is written on the command line (90m, 36h, 7d, 2w) in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", period)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{period!r}: expected for example 90m, 36h, 7d or 2w", param_hint=option)
    return float(match[1]) * _UNITS[match[2]]


class SeveralValues(TyperCommand):
    """A command without arguments whose repeatable options take several values at once, too: `--references A B`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the option before each of its values."""
        return super().parse_args(ctx, one_by_one(args, self.params))


def one_by_one(words: Sequence[str], params: Sequence[Any]) -> list[str]:
    """Return the words of a command line with a repeatable option before each of its values."""
    repeatable = {name for param in params if getattr(param, "multiple", False) for name in param.opts}
    return list(_one_by_one(words, repeatable))


def _one_by_one(words: Sequence[str], repeatable: Collection[str]) -> Iterator[str]:
    """Yield the words of a command line, with a repeatable option again before its second and later values."""
    option, values = "", 0
    for word in words:
        if word.startswith("-"):
            option, _, value = word.partition("=")
            values = bool(value)
        else:
            if values and option in repeatable:
                yield option
            values += 1
        yield word


def pairs_of(values: list[str]) -> dict[str, str]:
    """Return what --column gives, by role."""
    for value in values:
        if "=" not in value:
            raise typer.BadParameter(f"{value!r}: expected NAME=COLUMN", param_hint="--column")
    return dict(value.split("=", 1) for value in values)


def list_skipped(skipped: Sequence[object]) -> None:
    """Show the rows that were left out, and how many these are."""
    for problem in skipped:
        typer.secho(f"skipped: {problem}", fg="yellow", err=True)
    if skipped:
        typer.secho(f"{len(skipped)} {'row was' if len(skipped) == 1 else 'rows were'} left out", fg="yellow", err=True)


class progress:  # noqa: N801 - used like a function
    """A progress bar on standard error, where that is a terminal; call it with (done, total), total 0: unknown."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Any:
        return self._update

    def _update(self, done: int, total: int, what: str = "", note: str = "") -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        what = what or self._what
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total or None)
        self._bar.update(self._tasks[what], completed=done, total=total or None, description=what + note)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
