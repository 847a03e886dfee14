"""What several commands share: reading the settings and periods, and a progress bar."""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


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
        repeatable = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, list(_one_by_one(args, repeatable)))


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
