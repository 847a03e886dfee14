"""How reports are put out: tables as plain text, values as JSON can say them, and the files of a report's folder."""

import json
import math
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from index.errors import InputError
from service.evaluation import plots

_WIDTH: Final = 118


def make_folder(output: Path) -> None:
    """Make a report's folder, if it is not there: before anything is measured, as that may take long.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be made.
    """
    plots.require()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: no folder for a report can be made there ({error.strerror})") from error


def write_report(values: dict[str, Any], output: Path, draw: Callable[[Path], tuple[list[Path], str]]) -> list[Path]:
    """Write report.json, report.html and the plots into a folder, made if it is not there, and return the files.

    Args:
        values: of report.json.
        output: the folder.
        draw: draws the plots into it, and returns them and the page.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be written.
    """
    make_folder(output)
    try:
        written = output / "report.json"
        written.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        drawn, page = draw(output)
        (output / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: the report cannot be written there: {error}") from error
    return [written, *drawn, output / "report.html"]


def drawn(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    out = StringIO()
    Console(file=out, width=_WIDTH, color_system=None, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def finite(value: Any) -> Any:
    """Return a value with what JSON cannot say (NaN) as null."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
