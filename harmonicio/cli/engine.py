"""``harmonicio engine …``: processing engines."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.messages import EngineView
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Keep the verbs apart, however few they are."""


@app.command("ls")
def list_all(
    context: typer.Context,
    stream: str | None = typer.Option(None, help="Only those of this stream."),
    as_json: bool = console.AS_JSON,
) -> None:
    """List the engines."""
    with invocation.of(context).master() as master:
        engines = [each for each in master.engines() if stream in (None, each.stream)]
    if as_json:
        console.show_json(engines)
    else:
        show(engines)


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
