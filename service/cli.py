"""The command `waypost`. Each command imports what it needs when it runs, so that --help and small ones stay quick."""

import os
import shlex
import signal
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from index.errors import WaypostError
from service import cli_admin, cli_cache, cli_evaluate, cli_learning
from service.cli_shared import (
    LOCAL,
    Address,
    Config,
    Index,
    OnError,
    References,
    SeveralValues,
    Timeout,
    Token,
    list_skipped,
    pairs_of,
)
from service.cli_shared import progress as _progress
from service.cli_shared import settings_of as _settings

app = typer.Typer(
    name="waypost",
    help="Decide, for each prompt, whether a cached answer may be served and otherwise which model to call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the record of answers.")]
Models = Annotated[Path, typer.Option("--models", help="The catalogue of models.")]


class Precision(StrEnum):
    """How an encoder's weights are stored."""

    INT8 = "int8"
    FP32 = "fp32"


def main() -> None:
    """Run the command line; what Waypost raises on purpose is one clear message and exit code 1."""
    _open_standard_streams()
    try:
        app()
    except WaypostError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except UnicodeError as error:
        typer.secho(f"error: what was given is not UTF-8 text: {error}", fg="red", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


def _open_standard_streams() -> None:
    """Put nothing where a standard stream was closed: else a socket or a file gets its number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _version(wanted: bool) -> None:
    if wanted:
        from service.operations import waypost_version

        typer.echo(f"waypost {waypost_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: Config = None,
    index: Index = None,
    data_dir: DataDir = None,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", help="host:port or unix:PATH; may be repeated.")
    ] = None,
) -> None:
    """Serve decisions over gRPC until SIGTERM or Ctrl-C."""
    # As a container's first process it would never hear of a SIGTERM that comes while modules are imported.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Before anything loads numpy or FAISS: the encoder's workers use all cores already, and threads of the libraries'
    # own would fight them for these.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from service import memory

    memory.few_pools()
    from service import log, server

    settings = _settings(config, index, data_dir, listen)
    log.configure(settings.log)
    log.settings(settings)

    def ready(addresses: Any) -> None:
        first = addresses[0]
        command = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "waypost" else "waypost"
        if tokens := settings.auth.tokens:
            command = f"WAYPOST_TOKEN=… {command}"
        scopes = next((token.scopes for token in tokens.values()), ())
        scope = f" --scope {scopes[0]}" if scopes and "*" not in scopes else ""
        _tell(
            f"waypost is ready on {' and '.join(addresses)}\n"
            f'try: {command} decide --address {shlex.quote(first)}{scope} "How do I reset my password?"'
        )

    server.run(settings, ready)


@app.command("build-index", cls=SeveralValues)
def build_index(
    references: References,
    models: Models,
    output: Annotated[Path, typer.Option("--output", help="Index folder; made if it is not there.")],
    encoder: Annotated[Path | None, typer.Option("--encoder", help="Encoder folder; the default is MiniLM.")] = None,
    on_error: Annotated[OnError, typer.Option("--on-error", help="What to do with a wrong row.")] = OnError.FAIL,
    answers: Annotated[
        list[Path] | None, typer.Option("--answers", help="Answers with outcomes: learn to review from them.")
    ] = None,
) -> None:
    """Build a generation of the index from labelled prompts, and make it the current one."""
    from index import DEFAULT_ENCODER
    from index.build import build_index as build
    from index.catalogue import load_catalogue
    from index.encoder import OnnxEncoder
    from index.judged import read_judged
    from index.references import read_references, warnings

    catalogue = load_catalogue(models)
    judged = read_judged(answers, catalogue) if answers else []
    read = read_references(references, catalogue, on_error=on_error.value)
    list_skipped(read.skipped)
    for warning in warnings(read.references):
        typer.secho(f"warning: {warning}", fg="yellow", err=True)
    loaded = OnnxEncoder.load(encoder or DEFAULT_ENCODER)
    with _progress("embedding") as update:
        report = build(read.references, catalogue, loaded, output, update, partial(update, what="fitting"), judged)
    typer.echo(
        f"generation {report.generation} in {output}: {report.references} references, "
        f"{report.embedded} embedded, {report.reused} reused"
    )
    typer.echo(
        f"what it expects of the best model is off by {report.estimator.calibration_error:.3f} on average, "
        "over references it was not fitted on"
    )
    if report.acceptor is not None:
        auc, error, _, count = report.acceptor.accuracy.tolist()
        typer.echo(
            f"acceptor from {count:.0f} answers: tells right from wrong with AUC {auc:.3f}, calibration error "
            f"{error:.3f}, both held out; embeddings {'help' if report.acceptor.embeds else 'did not help'}"
        )
    if report.truncated:
        typer.echo(f"{report.truncated} prompts are longer than the encoder's window: only their beginning votes")


@app.command()
def decide(
    prompt: Annotated[str, typer.Argument(help="The prompt, or - for standard input.")],
    address: Address = LOCAL,
    scope: Annotated[str, typer.Option(help="Tenant or application.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Also show why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response as JSON.")] = False,
    token: Token = "",
    timeout: Timeout = 10.0,
) -> None:
    """Ask a running service what to do with a prompt."""
    from service import client

    text = sys.stdin.read() if prompt == "-" else prompt
    response = client.decide(address, text, scope=scope, explain=explain, token=token, timeout=timeout)
    typer.echo(client.to_json(response) if as_json else client.to_text(response))


@app.command(cls=SeveralValues)
def check(
    config: Config = None,
    index: Index = None,
    data_dir: DataDir = None,
    references: Annotated[list[Path] | None, typer.Option("--references", help="References to check as well.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Catalogue to check as well.")] = None,
) -> None:
    """Check settings, encoder, index, store, catalogue and references; exit code 1 if anything is wrong."""
    from service.check import check as run

    wrong = 0
    for name, problem in run(config, {"index": {"path": index}, "store": {"data_dir": data_dir}}, references, models):
        wrong += bool(problem)
        mark = typer.style("wrong", fg="red") if problem else typer.style("   ok", fg="green")
        typer.echo(f"{mark}  {name}" + (f"\n{problem}".replace("\n", "\n       ") if problem else ""))
    if wrong:
        raise typer.Exit(1)


@app.command("import")
def import_(
    sources: Annotated[list[Path], typer.Argument(help="CSV, TSV or JSON lines, also gzipped.")],
    output: Annotated[Path, typer.Option("--output", help="References to write (.jsonl).")],
    layout: Annotated[
        str,
        typer.Option(help="auto, labels, scores, routerbench, routellm or log; see docs/importing.md."),
    ] = "auto",
    models: Annotated[Path | None, typer.Option("--models", help="Catalogue that names must be in.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="NAME=COLUMN, for example prompt=question; repeatable."),
    ] = None,
    scale: Annotated[str, typer.Option(help="LOW,HIGH of the scores, where they are not 0 to 1.")] = "",
    on_error: Annotated[OnError, typer.Option("--on-error", help="What to do with a wrong row.")] = OnError.FAIL,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Turn what you have into references: labels, scores, a log of calls, RouterBench, RouteLLM."""
    from index.catalogue import load_catalogue
    from index.importing import import_rows

    with _progress("reading") as update:
        report = import_rows(
            sources,
            layout,
            output,
            load_catalogue(models) if models else None,
            on_error.value,
            columns=pairs_of(column or []),
            scale=_scale(scale),
            overwrite=overwrite,
            progress=lambda rows: update(rows, 0),
        )
    list_skipped(report.skipped)
    typer.echo(f"{output}: {report.written} references from {report.read} rows, layout {report.layout}")
    if report.unused:
        typer.echo(f"columns not used: {', '.join(report.unused)}")
    if report.averaged:
        typer.echo(f"{report.averaged} repeated calls were averaged")


@app.command("export-encoder")
def export_encoder(
    model: Annotated[str, typer.Argument(help="A sentence-transformers model: hub id or folder.")],
    output: Annotated[Path, typer.Option("--output", help="Encoder folder to write.")],
    precision: Annotated[Precision, typer.Option(help="How weights are stored.")] = Precision.INT8,
    source: Annotated[str, typer.Option(help="The model's name in encoder.json, where MODEL is a folder.")] = "",
) -> None:
    """Export an encoder to ONNX, quantise it and verify it against the original.

    Needs what `make export-encoder` sets up: the extra "export".
    """
    from index.export import export

    def say(line: str) -> None:
        typer.echo(line, err=True)

    report = export(model, output, precision=precision.value, source=source or None, progress=say)
    typer.echo(
        f"{report.folder}: {report.precision}, {report.dimensions} dimensions, window of {report.max_tokens} tokens, "
        f"{report.megabytes:.1f} MB, digest {report.digest[:12]}\ncosine to the original"
    )
    for kind, found in (("sentences", report.fidelity), ("fragments", report.fragments)):
        typer.echo(
            f"  over {found.texts} {kind}: mean {found.mean:.4f}, worst {found.minimum:.4f} ({found.worst[:60]!r})"
        )


app.add_typer(cli_evaluate.app)
app.add_typer(cli_cache.app)
for _command in [*cli_admin.app.registered_commands, *cli_learning.app.registered_commands]:
    app.registered_commands.append(_command)


def _tell(text: str) -> None:
    """Print what whoever started the service may like to read; it goes on where that is nobody."""
    try:
        typer.echo(text)
    except OSError:  # what stays in the buffer would be tried, and fail, once more at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _scale(value: str) -> tuple[float, float] | None:
    if not value:
        return None
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise typer.BadParameter(f"{value!r}: expected LOW,HIGH, for example 1,5", param_hint="--scale") from None
    return low, high


if __name__ == "__main__":
    main()
