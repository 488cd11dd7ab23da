"""``harmonicio engine …``: processing engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from harmonicio.cli import console, foreground, invocation, readiness
from harmonicio.control.messages import EngineView
from harmonicio.core.errors import InvalidInput
from harmonicio.core.sizes import format_size
from harmonicio.core.stream import StreamDeclaration

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def list_all(
    context: typer.Context,
    stream: str | None = typer.Option(None, help="Only those of this stream.", callback=invocation.stream_name),
    as_json: bool = console.AS_JSON,
) -> None:
    """List the engines."""
    with invocation.of(context).master() as master:
        if stream is not None:
            master.stream(stream)  # raises where there is none
        engines = [each for each in master.engines() if stream in (None, each.stream)]
    if as_json:
        console.show_json(engines)
    else:
        show(engines)


@app.command("run")
def run(
    context: typer.Context,
    handler: Path = typer.Argument(help="FILE.py that holds the handler."),
    stream: str | None = typer.Option(None, help="The stream that it handles.", callback=invocation.stream_name),
    engines: int = typer.Option(1, min=1, help="How many engines."),
) -> None:
    """Run a handler as the engines of a stream, until interrupted.

    The stream is declared with this handler, workers of the cluster run it, and it is scaled to none at the end.
    """
    file = invocation.handler_file(handler)
    if stream is None:
        raise InvalidInput(
            f"For which stream shall {handler} run?",
            hint=f"Add --stream NAME; or try it without a cluster: harmonicio up {handler}",
        )
    declaration = StreamDeclaration(stream, handler=str(file), engines=engines).checked()
    with foreground.until_interrupted() as interrupted, invocation.of(context).master(invocation.CHANGING) as master:
        master.declare_stream(declaration)
        console.say(f"Stream {stream!r} shall run {handler} with {console.count(engines, 'engine')}.")
        readiness.follow(master, [stream], interrupted)
        master.scale_stream(stream, 0)
        console.say(f"Stream {stream!r} has no engines now; its messages wait in the backlog.")


def show(engines: Sequence[EngineView]) -> None:
    """Print the engines."""
    console.show_table(
        (
            "engine",
            "stream",
            "worker",
            "pid",
            "state",
            "for",
            "leases",
            "handled",
            "failed",
            "from backlog",
            "received",
        ),
        [_row(each) for each in engines],
        empty="There are no engines.",
    )


def _row(each: EngineView) -> tuple[console.Cell, ...]:
    return (
        each.engine,
        each.stream,
        each.worker,
        str(each.pid or ""),
        each.state,
        console.duration(each.state_since_s),
        each.leases,
        each.handled,
        each.failed,
        each.handled_from_backlog,
        format_size(each.received_bytes),
    )
