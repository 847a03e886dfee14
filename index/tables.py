"""Tables that people have: CSV, TSV and JSON lines, also gzipped, row by row with the line each stands at.

Never guesses: a row that cannot be read comes as its fault, a file that cannot be read ends in an error. Called by
whatever takes in files in other layouts than our own.
"""

import csv
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from index.errors import ReferenceError_
from index.records import MAX_COST_USD
from index.references import RowError, parse_line, source_lines

Row = Mapping[str, object]
Rows = Iterator[tuple[int, Row | RowError]]

_MAX_CELL = 1 << 24  # answers stand in the same tables as prompts, and some are long
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ADVICE = {
    ".pkl": "is a pickle, which can run code when it is read; if you trust it, convert it once: "
    "python -c \"import pandas; pandas.read_pickle('in.pkl').to_csv('out.csv', index=False)\"",
    ".parquet": 'is Parquet; convert it once: python -c "import pandas; '
    "pandas.read_parquet('in.parquet').to_json('out.jsonl', orient='records', lines=True)\"",
    ".json": "is one JSON document; write an object a line and call it .jsonl",
}


def open_table(path: Path) -> tuple[list[str], Rows]:
    """Return the columns of a file, none for JSON lines, and its rows, perhaps with their fault."""
    name = path.name.lower().removesuffix(".gz")
    suffix = name[name.rfind(".") :]
    if path.is_dir():
        raise ReferenceError_(f"{path}: is a folder; give the files in it")
    if suffix in (".jsonl", ".ndjson"):
        return [], _json_rows(path)
    if suffix in (".csv", ".tsv"):
        return _csv_table(path, "\t" if suffix == ".tsv" else ",")
    advice = _ADVICE.get(suffix, "must end in .jsonl, .csv or .tsv, perhaps with .gz behind")
    raise ReferenceError_(f"{path}: {advice}")


def _json_rows(path: Path) -> Rows:
    for line, raw in source_lines(path):
        if not raw or raw.isspace():
            continue
        try:
            row = parse_line(raw)
        except RowError as error:
            yield line, error
        else:
            yield line, row if isinstance(row, dict) else RowError("", "must be a JSON object")


def _csv_table(path: Path, delimiter: str) -> tuple[list[str], Rows]:
    csv.field_size_limit(_MAX_CELL)
    # Bytes that are not UTF-8 become half surrogates, which the check of a row's texts refuses.
    lines = (raw.decode("utf-8", "surrogateescape") for _, raw in source_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise ReferenceError_(f"{path}:1: is not valid CSV: {error}") from None
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise ReferenceError_(f"{path}:1: has two columns called {twice[0]!r}")

    def rows() -> Rows:
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield line, RowError("", f"is not valid CSV: {error}")
                continue
            if cells is None:
                return
            if cells and len(cells) != len(header):
                fault = f"has {len(cells)} cells where the header has {len(header)}"
                yield line, RowError("", fault)
            elif cells:
                pairs = zip(header, cells, strict=True)
                yield line, {name: cell for name, cell in pairs if name and cell.strip()}

    return [name for name in header if name], rows()


def to_number(value: object, column: str) -> float | None:
    """Return the number in a cell, or None for a hole: null, or nothing but space."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < sys.float_info.max else math.inf
    raise RowError(column, f"must be a number such as 0.5, not {str(value)[:40]!r}")


def to_amount(value: object, column: str, unit: str = "USD") -> float | None:
    """Return the number in a cell that cannot be less than 0, or None for a hole."""
    number = to_number(value, column)
    if unit == "USD" and number is not None and not 0 <= number <= MAX_COST_USD:
        raise RowError(column, f"must be USD from 0 to {MAX_COST_USD:,}, not {number:g}")
    if number is not None and not 0 <= number < math.inf:
        raise RowError(column, f"must be {unit} of at least 0, not {number:g}")
    return number
