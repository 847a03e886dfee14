"""The commands that look after the cached answers of a running service. Part of `service.cli`, which takes them in."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from service.cli_shared import LOCAL, Address, Timeout, Token, seconds_of

app = typer.Typer(name="cache", help="Look after the cached answers of a running service.", no_args_is_help=True)

Scope = Annotated[str, typer.Option(help="Tenant or application.")]
_NEAR: Final = 0.9
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    address: Address = LOCAL,
    scope: Scope = "",
    limit: Annotated[int, typer.Option(min=1, help="The most answers.")] = 1_000,
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """List answers, oldest first: when they were stored and lapse, how often they were used, and what a use saves."""
    from service import client, client_cache

    with client_cache.Answers(address, scope, token, timeout) as answers:
        number = -1
        for number, answer in enumerate(answers.list()):
            if number == limit:
                typer.secho(f"there are more: --limit {2 * limit} shows them", fg="yellow", err=True)
                return
            typer.echo(client.to_json(answer).replace("\n", "") if as_json else client_cache.to_line(answer))
    if number < 0:
        typer.secho("no answers in this scope", fg="yellow", err=True)


@app.command()
def show(
    entry: Annotated[str, typer.Argument(help="Its id: `list` and decisions show it.")],
    address: Address = LOCAL,
    scope: Scope = "",
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """Show one answer in full: its keys, its record, its prompt and its text."""
    from service import client, client_cache

    with client_cache.Answers(address, scope, token, timeout) as answers:
        answer = answers.get(entry)
    typer.echo(client.to_json(answer) if as_json else client_cache.to_text(answer))


@app.command()
def invalidate(
    entry: Annotated[list[str] | None, typer.Option("--entry", help="These entries; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="With any of these source tags; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="Of this model.")] = "",
    older_than: Annotated[str, typer.Option(help="Stored at least so long ago: 90m, 36h, 7d, 2w.")] = "",
    near: Annotated[str, typer.Option(help="With a prompt near this text; see --within.")] = "",
    within: Annotated[
        float | None, typer.Option(help="The least cosine that is near.", show_default=f"{_NEAR}")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the scope.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only counted.")] = False,
    address: Address = LOCAL,
    scope: Scope = "",
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """Remove answers: those that meet all conditions that are given. Without --yes nothing is removed yet."""
    from service import client_cache

    if within is not None and not near:
        raise typer.BadParameter("it says how near to the text of --near: give that, too", param_hint="--within")
    with client_cache.Answers(address, scope, token, timeout) as answers:
        found = answers.invalidate(
            entries=entry or (),
            tags=tag or (),
            model=model,
            older_than=seconds_of(older_than, "--older-than") if older_than else None,
            near=(near, _NEAR if within is None else within) if near else None,
            every=every,
            dry_run=not yes,
        )
    if yes:
        typer.echo(f"{_answers(found.removed)} removed")
        return
    for entry_id in found.entry_ids:
        typer.echo(entry_id)
    hint = ": add --yes" if found.removed else ""
    typer.echo(f"{_answers(found.removed)} would be removed{hint}", err=True)


@app.command("export")
def export(
    output: Annotated[Path, typer.Argument(help="JSON lines to write, or - for standard output.")],
    address: Address = LOCAL,
    scope: Scope = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """Write all answers of a scope as JSON lines, which `import` takes, into another scope or service as well.

    Left out is what is served to one token only: whoever imports it would make it everyone's.
    """
    from index.errors import InputError
    from service import client_cache

    if str(output) != "-" and output.exists():
        if not output.is_file():  # a device, a pipe: a file would take its place
            raise InputError(f"{output}: is no file; give the name of one, or - for standard output")
        if not overwrite:
            raise InputError(f"{output}: exists already; give another name, or --overwrite")
    written = private = 0
    with _whole(output) as file, client_cache.Answers(address, scope, token, timeout) as answers:
        for answer in answers.list():
            if answer.private_to:
                private += 1
                continue
            file.write(json.dumps(client_cache.to_row(answer), ensure_ascii=False) + "\n")
            written += 1
    typer.echo(f"{_answers(written)} written" + (f", {private} private ones left out" if private else ""), err=True)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="What `export` wrote, or - for standard input.")],
    address: Address = LOCAL,
    scope: Scope = "",
    skip: Annotated[bool, typer.Option("--skip", help="Go on after a line that is wrong or refused.")] = False,
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """Store the answers of an export; what has lapsed since is left out. They count as stored now."""
    from index.errors import InputError
    from service import client_cache
    from service.client import CallError

    stored = replaced = lapsed = wrong = 0
    try:
        file = sys.stdin.buffer if str(source) == "-" else source.open("rb")
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error
    with file, client_cache.Answers(address, scope, token, timeout) as answers:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                took = answers.put(client_cache.read(line), time.time())
            except (ValueError, CallError) as error:
                if not skip or "UNAVAILABLE" in str(error):
                    raise InputError(f"{source}:{number}: {error}; {_answers(stored)} stored before it") from error
                typer.secho(f"skipped: {source}:{number}: {error}", fg="yellow", err=True)
                wrong += 1
                continue
            stored, replaced, lapsed = stored + (took is not None), replaced + bool(took), lapsed + (took is None)
    left_out = f", {lapsed} had lapsed" * bool(lapsed) + f", {wrong} were skipped" * bool(wrong)
    typer.echo(f"{_answers(stored)} stored, {replaced} in place of others{left_out}")


def _answers(count: int) -> str:
    return f"{count:,} answer" if count == 1 else f"{count:,} answers"


@contextmanager
def _whole(output: Path) -> Iterator[TextIO]:
    """Give a file to write that is there whole or not at all, or standard output for "-"."""
    if str(output) == "-":
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
