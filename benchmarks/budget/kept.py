"""What was played already, in a file: a run of hours that is stopped goes on where it was.

Only what the same code did counts: whatever is changed of what decides is played again.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.budget.streams import Outcome, Run

ROOT: Final = Path(__file__).resolve().parents[2]
_CODE: Final = ("index", "service", "benchmarks/budget", "benchmarks/peers")
# What prints what was played does not decide what is.
_PRINTING: Final = ("run.py", "kept.py", "published.py")


class Kept:
    """Runs by what they are of, one a line of JSON.

    Args:
        file: where they are kept; None: nowhere.
    """

    def __init__(self, file: Path | None) -> None:
        self._file, self._code = file, code()
        self._runs: dict[str, Run] = {}
        if file is not None and file.exists():
            for line in file.read_text("utf-8").splitlines():
                one = json.loads(line)
                self._runs[one["of"]] = Run(**{**one["run"], "outcome": Outcome(**one["run"]["outcome"])})

    def known(self, *of: Any) -> bool:
        """Return whether it was played."""
        return self._name(of) in self._runs

    def get(self, make: Callable[[], Run], *of: Any) -> Run:
        """Return a run; play it if need be."""
        name = self._name(of)
        if name not in self._runs:
            self._runs[name] = run = make()
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"of": name, "run": asdict(run)}) + "\n")
        return self._runs[name]

    def _name(self, of: tuple[Any, ...]) -> str:
        return json.dumps([self._code, *of])


def code() -> str:
    """Return a digest of all that decides what comes of a stream."""
    digest = hashlib.sha256()
    files = (file for folder in _CODE for file in sorted((ROOT / folder).rglob("*")))
    for file in files:
        if file.suffix in (".py", ".json", ".tsv") and file.name not in _PRINTING:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
