"""The commands that look back and learn: replay, refit, label. Part of `service.cli`, which takes them in."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.cli_shared import LOCAL, Address, Timeout, progress, seconds_of, settings_of

app = typer.Typer()

Token = Annotated[str, typer.Option(envvar="WAYPOST_TOKEN", help="Bearer token of an administrator.")]
Period = Annotated[str, typer.Option(help="Only so far back: 90m, 36h, 7d, 2w; everything recorded without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def replay(
    address: Address = LOCAL,
    generation: Annotated[str, typer.Option(help="The generation to decide with; without it, the one in use.")] = "",
    settings: Annotated[
        Path | None,
        # Rich would take the names of the tables for markup.
        typer.Option("--settings", help=r"TOML file with \[routing], \[learning] or \[policy] to decide with."),
    ] = None,
    scope: Annotated[str, typer.Option(help="Only this scope.")] = "",
    period: Period = "",
    limit: Annotated[int, typer.Option(help="The most decisions, the latest first; 0: 10,000.")] = 0,
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 600.0,
) -> None:
    """Show what another generation or other settings would have decided, from the journal of a running service."""
    from service import client

    text = settings.read_text(encoding="utf-8-sig") if settings is not None else ""
    wanted = client.replay_request(generation, text, scope, seconds_of(period, "--period") if period else None, limit)
    found = client.replay(address, wanted, token=token, timeout=timeout)
    typer.echo(client.to_json(found) if as_json else client.replay_text(found))


@app.command()
def refit(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file; without it, defaults.")] = None,
    index: Annotated[Path | None, typer.Option("--index", help="Index folder; overrides index.path.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the journal.")] = None,
    period: Period = "",
    scope: Annotated[str, typer.Option(help="Only reports of this scope.")] = "",
    every_scope: Annotated[
        bool, typer.Option("--every-scope", help="Reports of all scopes: explanations then show their prompts to all.")
    ] = False,
    held_out: Annotated[float, typer.Option(min=0.05, max=0.5, help="Share kept out to judge by.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Of what is kept out.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fold reports of quality into a new generation, and promote it if it is not worse on rows kept out.

    A running service takes it over with `waypost generations --activate`, or at its next start. Exit code 1 if it is
    worse.
    """
    from service import refit as refitting

    since = time.time() - seconds_of(period, "--period") if period else 0.0
    wanted = scope or ("" if every_scope else None)
    with progress("embedding") as update:
        found = refitting.refit(
            settings_of(config, index, data_dir, None),
            since,
            scope=wanted,
            held_out=held_out,
            seed=seed,
            dry_run=dry_run,
            progress=update,
        )
    typer.echo(json.dumps(asdict(found), indent=1) if as_json else refitting.to_text(found))
    if not found.acceptable:
        raise typer.Exit(1)


@app.command()
def label(
    prompts: Annotated[
        list[Path],
        typer.Argument(help="Prompts: .txt with one a line, or JSON lines with prompt (or messages), id, expected."),
    ],
    endpoints: Annotated[Path, typer.Option(help="TOML file of OpenAI-compatible endpoints; see docs/labelling.md.")],
    models: Annotated[Path, typer.Option("--models", help="The catalogue of models, for names and prices.")],
    output: Annotated[Path, typer.Option("--output", help="References to write (.jsonl).")],
    budget: Annotated[float, typer.Option(min=0.0, help="The most that may be spent, in USD, by all runs together.")],
    score: Annotated[str, typer.Option(help="judge, or how to compare with `expected`: exact, contains, number.")],
    results: Annotated[
        Path | None, typer.Option(help="What was answered so far, to go on with; beside the output without it.")
    ] = None,
) -> None:
    """Label prompts: let every model answer them, score the answers, write references. Can be interrupted at any time.

    Exit code 1 where something is left: run it again, with more budget or mended endpoints, to go on.
    """
    import asyncio

    from index.catalogue import load_catalogue
    from index.references import check_output, write_references
    from service.labelling.endpoints import read_endpoints
    from service.labelling.label import label as run
    from service.labelling.results import read_prompts, results_in, to_references

    check_output(output)
    asked, (whom, judge) = read_prompts(prompts), read_endpoints(endpoints, load_catalogue(models))
    with results_in(results or output.with_suffix(".results.jsonl")) as found, progress("labelling") as update:

        def show(done: int, total: int, spent: float) -> None:
            update(done, total, note=f" ${spent:.4f} of ${budget:g}")

        try:
            done = asyncio.run(run(asked, whom, judge, score, found, budget, show))
        except KeyboardInterrupt:
            typer.secho(f"interrupted; ${found.spent:.4f} spent: run it again to go on", fg="yellow", err=True)
            raise typer.Exit(130) from None
    references = to_references(asked, found, "label")
    if references:
        write_references(output, references)
    for name, why in done.refused.items():
        typer.secho(f"{name} was left out: {why}", fg="yellow", err=True)
    typer.echo(
        f"{output}: {len(references)} references of {len(asked)} prompts; {done.scored} answers scored, "
        f"{done.failed} failed, ${found.spent:.4f} spent in all"
    )
    if done.left:
        typer.echo(f"{done.left} answers are left{f': {done.stopped}' if done.stopped else ''}; run it again to go on")
        raise typer.Exit(1)
