"""The commands that measure: routing on labelled prompts, and the cache on a log. Part of `service.cli`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli_shared import (
    Config,
    Index,
    OnError,
    References,
    list_skipped,
    one_by_one,
    pairs_of,
    progress,
    settings_of,
)


class _Group(TyperGroup):
    """Measures routing, and asks for what that needs, unless another command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; with a command first there are no options of routing, and so none that are missing."""
        ctx.resilient_parsing = named = bool(args) and args[0] in self.commands
        try:
            return super().parse_args(ctx, args if named else one_by_one(args, self.params))
        finally:
            ctx.resilient_parsing = False


app = typer.Typer(name="evaluate", cls=_Group, invoke_without_command=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.callback()
def evaluate(
    context: typer.Context,
    references: References,
    config: Config = None,
    index: Index = None,
    address: Annotated[str, typer.Option(help="Ask the running service at host:port or unix:PATH.")] = "",
    models: Annotated[
        Path | None, typer.Option("--models", help="The catalogue; without --index and --address: cross-validate.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Of the cross-validation.")] = 5,
    labels: Annotated[
        int | None, typer.Option(help="Instead of folds: so many rows are references, the rest is asked.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of folds and bootstrap.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Cross-validate with so many seeds, from --seed on.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", help="Folder for report.json and the plots.")] = None,
    as_json: AsJson = False,
    scope: Annotated[str, typer.Option(help="Tenant or application to ask as, with --address.")] = "",
    token: Annotated[str, typer.Option(envvar="WAYPOST_TOKEN", help="Bearer token, with --address.")] = "",
) -> None:
    """Measure routing on labelled prompts the index does not know: quality, cost, their curve, against baselines.

    With the command `cache`: measure the cache on a log of prompts.
    """
    if context.invoked_subcommand is not None:
        if references:
            context.fail(f"{context.invoked_subcommand} comes first, and takes no options of routing: leave them out")
        return
    from service import evaluation

    if output is not None:
        evaluation.make_folder(output)
    what = evaluation.Evaluation(
        references,
        index=index is not None,
        service=evaluation.Service(address, scope, token) if address else None,
        models=models,
        folds=folds,
        labels=labels,
        seeds=range(seed, seed + seeds),
    )
    with progress("asking") as update:
        report = evaluation.run(what, settings_of(config, index, None, None), update)
    if output is not None:
        evaluation.write(report, output)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else evaluation.to_text(report))


@app.command()
def cache(
    log: Annotated[list[Path], typer.Argument(help="Calls: CSV, TSV or JSON lines, also gzipped.")],
    config: Config = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Index folder: for its models and prices, policy and categories.")
    ] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Catalogue for prices, without --index.")] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option("--budget", help="Error budget to try as well; repeatable. .002, .005, .01, .02 and .05."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="NAME=COLUMN, for example prompt=question; repeatable.")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Play in a random order: for labelled sets that are no log.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of that order, and of what is audited.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Play only the first so many calls.")] = None,
    on_error: Annotated[OnError, typer.Option("--on-error", help="What to do with a wrong row.")] = OnError.FAIL,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for report.html, report.json and the plots.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play a log through the cache: what it would have answered, how much wrongly, and what that saves.

    Each row has a prompt (or messages) and the answer it got, or a label that stands for the right answer; and, where
    known, scope, category, context, model, cost (USD), seconds and time.
    """
    from service.evaluation import caching, make_folder
    from service.log import configure
    from service.settings import LogSettings

    configure(LogSettings(level="warning"))  # not that a service is loaded, once for each budget
    if output is not None:
        make_folder(output)
    what = caching.Evaluation(
        log,
        index=index is not None,
        models=models,
        budgets=tuple(budget) if budget else caching.BUDGETS,
        columns=pairs_of(column or []),
        shuffle=shuffle,
        seed=seed,
        limit=limit,
        on_error=on_error.value,
    )
    with progress("reading") as update:
        report = caching.run(what, settings_of(config, index, None, None), update)
    list_skipped(report.skipped)
    if report.unused:
        typer.echo(f"columns not used: {', '.join(report.unused)}", err=True)
    if output is not None:
        caching.write(report, output)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else caching.to_text(report))
