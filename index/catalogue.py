"""The catalogue, `models.toml`: which models can be called, at what price, and by which names.

Owns the file's format and says all that is wrong with it at once. Never asks a provider anything,
and imports only the standard library: every command reads a catalogue. Called by the builder, the
importer and the service.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from index.errors import CatalogueError
from index.records import Model

MAX_NAME_BYTES = 256
_KINDS = ("model", "tool", "agent")
# What is beyond is a slip, and what is made of it (a time, a cost) could not be told to a caller.
_MOST, _LEAST = 1_000_000_000, 0.001


class CatalogueFileError(CatalogueError):
    """A catalogue cannot be used; `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models that can be called. Names are ids or aliases; both are looked up alike.

    `fallback` is the id of the model to use when nothing is known, if the file names one. `text` is
    the file as it was read, so that a generation can keep a copy. `ids` are the models', in the order of the file.
    """

    models: tuple[Model, ...]
    fallback: str | None = None
    text: str = field(default="", repr=False)
    ids: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _names: Mapping[str, Model] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {name: model for model in self.models for name in (model.id, *model.aliases)}
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "ids", tuple(model.id for model in self.models))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def get(self, name: str, place: str = "") -> Model:
        """Return the model with this id or alias; raises CatalogueError, beginning with `place`, if there is none."""
        model = self._names.get(name)
        if model is None:
            raise CatalogueError(f"{place}: {self.unknown(name)}" if place else self.unknown(name))
        return model

    def resolve(self, name: str) -> str | None:
        """Return the id of the model with this id or alias, or None if there is none."""
        model = self._names.get(name)
        return None if model is None else model.id

    def unknown(self, name: str) -> str:
        """Return the sentence that says a name is unknown, with the closest known one."""
        return f"the catalogue has no model {name!r}{did_you_mean(name, self._names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as `; did you mean 'gpt-5'?`, or an empty string if nothing is close.

    Args:
        name: what was written.
        known: what could have been meant; case is ignored when comparing.
    """
    import difflib  # only a mistake needs it

    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue from a file; raises CatalogueFileError with everything that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        problem = "is a folder; give the file, for example models.toml in it"
    except FileNotFoundError:
        problem = "does not exist; write one, or start from reference_prompts/models.toml"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"line {line} is not UTF-8 ({error.reason}); save the file as UTF-8"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    else:
        return parse_catalogue(text, str(path))
    raise CatalogueFileError([f"{path}: {problem}"])


def parse_catalogue(text: str, source: str) -> Catalogue:
    """Return the catalogue that a TOML text describes.

    Args:
        text: the file's content.
        source: what to call it in errors, usually its path.

    Raises:
        CatalogueFileError: with every problem, each naming the source, the model and the field.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may be too long, tables nested too deep
        raise CatalogueFileError([f"{source}: is not valid TOML: {error}"]) from None
    problems = _unknown_keys(document, ("models", "fallback"), "")
    tables = document.get("models", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append("models: must be tables; head each with [[models]], in double brackets")
        tables = []
    elif not tables:
        problems.append("models: the catalogue is empty; describe each model under [[models]]")
    models = [_model(table, number, problems) for number, table in enumerate(tables, 1)]
    names = _claimed_names(tables, problems)
    problems += _idle_groups(model for model in models if model is not None)
    fallback = document.get("fallback")
    if fallback is not None and not (isinstance(fallback, str) and fallback in names):
        hint = did_you_mean(fallback, names) if isinstance(fallback, str) else ""
        problems.append(f"fallback: no model is called {_show(fallback)}{hint}")
    if problems:
        raise CatalogueFileError([f"{source}: {problem}" for problem in problems])
    catalogue = Catalogue(tuple(model for model in models if model is not None), None, text)
    return catalogue if fallback is None else replace(catalogue, fallback=names[fallback])


def _model(table: dict[str, Any], number: int, problems: list[str]) -> Model | None:
    """Return the model of one table, or None after adding what is wrong with it to `problems`."""
    place = _place(table, number)
    found = _unknown_keys(table, (*_REQUIRED, *_OPTIONAL), f"{place}: ")
    values: dict[str, Any] = {}
    for name, check in (_REQUIRED | _OPTIONAL).items():
        if name not in table:
            if name in _REQUIRED:
                found.append(f"{place}: {name}: is missing; {_REMEDY[name]}")
            continue
        try:
            values[name] = check(table[name])
        except ValueError as error:
            found.append(f"{place}: {name}: {error}, not {_show(table[name])}")
    problems += found
    return None if found else Model(**values)


def _idle_groups(models: Iterable[Model]) -> list[str]:
    """Return a problem for each group that nobody would be called of."""
    weights: dict[str, float] = {}
    for model in models:
        if model.group:
            weights[model.group] = weights.get(model.group, 0.0) + model.weight
    return [
        f"group {group!r}: the weights of all its models are 0; give one of them a weight above 0"
        for group, weight in weights.items()
        if weight == 0
    ]


def _place(table: Mapping[str, Any], number: int) -> str:
    """Return how errors call the model of a table: its number, and its id where it has one."""
    name = table.get("id")
    return f"model {number} ({name})" if isinstance(name, str) else f"model {number}"


def _unknown_keys(table: Mapping[str, Any], known: Iterable[str], place: str) -> list[str]:
    """Return a problem for each key that is not known."""
    names = tuple(known)
    return [
        f"{place}{key}: is not a key of the catalogue{did_you_mean(key, names)}" for key in table if key not in names
    ]


def _claimed_names(tables: list[dict[str, Any]], problems: list[str]) -> dict[str, str]:
    """Return the id behind each name; adds names that stand for two models to `problems`."""
    ids: dict[str, str] = {}
    places: dict[str, str] = {}
    for number, table in enumerate(tables, 1):
        place = _place(table, number)
        aliases = table.get("aliases")
        names = [("id", table.get("id"))]
        names += [("aliases", alias) for alias in (aliases if isinstance(aliases, list) else [])]
        for key, name in names:
            if isinstance(name, str) and name in places:
                problems.append(
                    f"{place}: {key}: {name!r} is already a name of {places[name]}; a name may stand for one model only"
                )
            elif isinstance(name, str):
                places[name] = place
                ids[name] = str(table.get("id"))
    return ids


def _show(value: object) -> str:
    """Return a value as it may stand in a message: short, and quoted if it is text."""
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."  # noqa: PLR2004 - a line's worth


def _name(value: object) -> str:
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or value != value.strip()
        or not 0 < len(value.encode(errors="replace")) <= MAX_NAME_BYTES
    ):
        raise ValueError(f"must be text of 1 to {MAX_NAME_BYTES} bytes without space around it")
    return value


def _at_least_0(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of at least 0")  # noqa: TRY004 - collected as text
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("must be a number of at least 0")
    if value > _MOST:
        raise ValueError(f"must be a number of at most {_MOST:,}")
    return float(value)


def _above_0(value: object) -> float:
    if isinstance(value, bool) or value == 0:
        raise ValueError("must be a number above 0")
    if _at_least_0(value) < _LEAST:
        raise ValueError(f"must be a number of at least {_LEAST}")
    return _at_least_0(value)


def _tokens(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError("must be a whole number of tokens above 0")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of names, such as ["a", "b"]')  # noqa: TRY004 - as above
    return tuple(_name(item) for item in value)


def _kind(value: object) -> str:
    if value not in _KINDS:
        raise ValueError(f"must be one of {', '.join(_KINDS)}")
    return str(value)


_REQUIRED: dict[str, Callable[[object], object]] = {
    "id": _name,
    "input_usd_per_mtok": _at_least_0,
    "output_usd_per_mtok": _at_least_0,
    "context_window": _tokens,
}
_OPTIONAL: dict[str, Callable[[object], object]] = {
    "tier": _name,
    "latency_ms": _at_least_0,
    "tokens_per_s": _above_0,
    "capabilities": lambda value: frozenset(_names(value)),
    "kind": _kind,
    "aliases": _names,
    "group": _name,
    "weight": _at_least_0,
}
_REMEDY = {
    "id": "give the name the provider knows the model by",
    "input_usd_per_mtok": "give the USD for a million input tokens, 0 if it is free",
    "output_usd_per_mtok": "give the USD for a million output tokens, 0 if it is free",
    "context_window": "give the tokens that prompt and answer may have together",
}
