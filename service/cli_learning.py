"""The commands that look back and learn: replay, refit, label. Part of `service.cli`, which takes them in."""

import re
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Address = Annotated[str, typer.Option(help="host:port or unix:PATH of the service.")]
Token = Annotated[str, typer.Option(envvar="WAYPOST_TOKEN", help="Bearer token of an administrator.")]
Period = Annotated[str, typer.Option(help="Only so far back: 90m, 36h, 7d, 2w; everything recorded without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


@app.command()
def replay(
    address: Address = "127.0.0.1:50051",
    generation: Annotated[str, typer.Option(help="The generation to decide with; without it, the one in use.")] = "",
    settings: Annotated[
        Path | None, typer.Option("--settings", help="TOML file with [routing] or [learning] to decide with.")
    ] = None,
    scope: Annotated[str, typer.Option(help="Only this scope.")] = "",
    period: Period = "",
    limit: Annotated[int, typer.Option(help="The most decisions, the latest first; 0: 10,000.")] = 0,
    as_json: AsJson = False,
    token: Token = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 600.0,
) -> None:
    """Show what another generation or other settings would have decided, from the journal of a running service."""
    from service import client

    text = settings.read_text(encoding="utf-8") if settings is not None else ""
    wanted = client.replay_request(generation, text, scope, _seconds(period) if period else None, limit)
    found = client.replay(address, wanted, token=token, timeout=timeout)
    typer.echo(client.to_json(found) if as_json else client.replay_text(found))


def _seconds(period: str) -> float:
    """Return a period in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", period)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{period!r}: expected for example 90m, 36h, 7d or 2w", param_hint="--period")
    return float(match[1]) * _UNITS[match[2]]
