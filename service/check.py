"""What `waypost check` does: everything the service would load at its start, looked at piece by piece."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from index.catalogue import Catalogue, load_catalogue
from index.encoder import Encoder, OnnxEncoder
from index.errors import StoreHeldError, WaypostError
from index.generation import current_generation, load_generation
from index.references import read_references, warnings
from index.sqlite_file import refuse_log_alone
from index.sqlite_journal import SqliteJournal
from index.sqlite_store import SqliteStore
from service.cache.semantic import load_judge
from service.policy.compiled import fit
from service.policy.state import damaged
from service.routing.choose import fallback_model
from service.settings import Settings, load_settings
from service.spending import baseline_of

Finding = tuple[str, str]
"""What was looked at, and what is wrong with it ("" where nothing is)."""


def check(
    config: Path | None,
    overrides: Mapping[str, Mapping[str, Any]],
    references: Sequence[Path] | None,
    models: Path | None,
) -> Iterator[Finding]:
    """Yield a finding for each thing the service needs, and for the references and the catalogue that are named.

    Args:
        config: the settings file; None: defaults.
        overrides: {table: {key: value}}; values of None are left out.
        references: files or folders of references to check as well.
        models: a catalogue to check as well; references are checked against it.
    """
    given = {table: {k: v for k, v in pairs.items() if v is not None} for table, pairs in overrides.items()}
    try:
        settings = load_settings(config, {table: pairs for table, pairs in given.items() if pairs})
    except WaypostError as error:
        yield f"settings {config or '(defaults and environment)'}", str(error)
        return
    yield f"settings {config or '(defaults and environment)'}", ""
    encoder: Encoder | None = None
    try:
        encoder = OnnxEncoder.load(settings.encoder.path)
        load_judge(settings.cache, encoder.digest)
        yield f"encoder {settings.encoder.path}", ""
    except WaypostError as error:
        yield f"encoder {settings.encoder.path}", str(error)
    yield from _index(settings, encoder)
    yield _file("store", settings.store.file, SqliteStore)
    if settings.journal.enabled:
        yield _file("journal", settings.store.journal, SqliteJournal)
    yield _state(settings.store.policy_file)
    yield from _inputs(references, models)


def _index(settings: Settings, encoder: Encoder | None) -> Iterator[Finding]:
    """Look at the index, and at the policy, which must fit its catalogue."""
    name = f"index {settings.index.path}"
    try:
        folder = current_generation(settings.index.path)
        name = f"index {folder}"
        generation = load_generation(folder, encoder.digest if encoder else None)
        fallback_model(generation, settings.routing.fallback)
        baseline_of(generation, settings.stats.baseline)
    except WaypostError as error:
        yield name, str(error)
        return
    yield f"{name} ({len(generation.references)} references)", ""
    policy = settings.policy
    name = f"policy ({len(policy.rules)} rules, {len(policy.experiments)} experiments)"
    try:
        fit(policy, generation)
    except WaypostError as error:
        yield name, str(error)
    else:
        yield name, ""


def _file(kind: str, path: Path, opens: Callable[[Path], SqliteStore | SqliteJournal]) -> Finding:
    """Open a file as the service would; one that is not there yet is made at the start, and is fine."""
    try:
        if not path.exists():
            if opens is SqliteStore:
                refuse_log_alone(path)
            return f"{kind} {path} (not there yet)", _cannot_be_made(path)
        opens(path).close()
    except StoreHeldError:
        return f"{kind} {path} (in use by a running service: not opened)", ""
    except WaypostError as error:
        return f"{kind} {path}", str(error)
    return f"{kind} {path}", ""


def _state(path: Path) -> Finding:
    """Look at what the policy remembers; damage keeps nobody from starting."""
    name = f"policy state {path}"
    try:
        why = damaged(path)
    except WaypostError as error:
        return name, str(error)
    if why:
        return f"{name} (damaged, {why}: the start puts it aside; conversations, budgets and results begin anew)", ""
    return (name if path.exists() else f"{name} (not there yet)"), ""


def _cannot_be_made(path: Path) -> str:
    """Return why a file that is not there cannot be made with its folders, "" where it can."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return ""
    why = "cannot be written" if nearest.is_dir() else "is not a folder"
    return f"{nearest} {why}: name another folder as store.data_dir (--data-dir), or mend that"


def _inputs(references: Sequence[Path] | None, models: Path | None) -> Iterator[Finding]:
    catalogue: Catalogue | None = None
    if models is not None:
        try:
            catalogue = load_catalogue(models)
            yield f"catalogue {models} ({len(catalogue.models)} models)", ""
        except WaypostError as error:
            yield f"catalogue {models}", str(error)
    if references:
        name = f"references {', '.join(map(str, references))}"
        if catalogue is None:
            yield name, "name a sound catalogue with --models to check references against"
            return
        try:
            read = read_references(references, catalogue).references
        except WaypostError as error:
            yield name, str(error)
            return
        said = "".join(f"; note: {warning}" for warning in warnings(read))
        yield f"{name} ({len(read)} rows{said})", ""
