"""``harmonicio backlog …``: the messages that wait at the master."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.messages import BacklogFigures
from harmonicio.core.errors import NotFound
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Keep the verbs apart, however few they are."""


@app.command("show")
def show_figures(
    context: typer.Context,
    stream: str | None = typer.Argument(None, help="Only this stream.", callback=invocation.stream_name),
    as_json: bool = console.AS_JSON,
) -> None:
    """Show how much waits, is reserved and is dead."""
    with invocation.of(context).master() as master:
        figures = [each for each in master.backlog() if stream in (None, each.stream)]
    if stream is not None and not figures:
        raise NotFound(f"There is no stream {stream!r}.", hint="List them with: harmonicio stream ls")
    if as_json:
        console.show_json(figures)
    else:
        show(figures, empty="There are no streams.")


def show(figures: Sequence[BacklogFigures], *, empty: str = "") -> None:
    """Print the figures of each stream."""
    console.show_table(
        (
            "backlog of",
            "ready",
            "reserved",
            "dead",
            "waiting",
            "oldest",
            "stored since start",
            "done since start",
            "late since start",
        ),
        [_row(each) for each in figures],
        empty=empty,
    )


def _row(each: BacklogFigures) -> tuple[console.Cell, ...]:
    oldest = console.duration(each.oldest_age_s) if each.ready or each.reserved else ""
    since_start = (each.stored_total, each.done_total, each.late_total)
    return (each.stream, each.ready, each.reserved, each.dead, format_size(each.waiting_bytes), oldest, *since_start)
