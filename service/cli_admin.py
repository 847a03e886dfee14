"""The commands that look into a running service: explain, stats, generations. Part of `service.cli`."""

from typing import Annotated

import typer

from service.cli_shared import LOCAL, Address, Timeout, Token

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print the response as JSON.")]


@app.command()
def explain(
    decision: Annotated[str, typer.Argument(help="Its id, from the response of Decide.")],
    address: Address = LOCAL,
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 10.0,
) -> None:
    """Show one of the latest decisions in full: what was expected of every model, and what had a say."""
    from service import client, client_admin

    found = client_admin.explain(address, decision, token=token, timeout=timeout)
    typer.echo(client.to_json(found) if as_json else client_admin.explained_text(found))


@app.command()
def stats(
    address: Address = LOCAL,
    scope: Annotated[str, typer.Option(help="Only this scope.")] = "",
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 10.0,
) -> None:
    """Show what a running service did since its start: cost, savings, shares and quality by model and arm."""
    from service import client, client_admin

    found = client_admin.stats(address, scope, token=token, timeout=timeout)
    typer.echo(client.to_json(found) if as_json else client_admin.stats_text(found))


@app.command()
def generations(
    address: Address = LOCAL,
    activate: Annotated[str, typer.Option(metavar="ID", help="Serve from this one from now on.")] = "",
    as_json: AsJson = False,
    token: Token = "",
    timeout: Timeout = 60.0,
) -> None:
    """List the generations that a running service can serve from, newest first, or have it serve from one of them."""
    from service import client, client_admin

    if activate:
        done = client_admin.activate(address, activate, token=token, timeout=timeout)
        typer.echo(client.to_json(done) if as_json else f"serving {done.generation}, before {done.previous}")
        return
    found = client_admin.generations(address, token=token, timeout=timeout)
    typer.echo(client.to_json(found) if as_json else client_admin.generations_text(found))
