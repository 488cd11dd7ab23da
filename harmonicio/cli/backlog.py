"""``harmonicio backlog …``: the messages that wait at the master."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

import typer

from harmonicio.cli import console, foreground, invocation
from harmonicio.control.backlog_messages import (
    MAX_NAMED,
    BacklogFill,
    BacklogView,
    NotChanged,
    ShedMessage,
    WaitingMessage,
)
from harmonicio.control.messages import BacklogFigures
from harmonicio.core.errors import Conflict
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)


@app.command("show")
def show_figures(
    context: typer.Context,
    stream: str | None = typer.Argument(
        None, help="Only this stream, with the messages that go next.", callback=invocation.stream_name
    ),
    limit: int = typer.Option(10, min=1, max=500, help="So many messages of each kind."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Show how much waits, is reserved and is dead; of one stream also what goes next and what is oldest."""
    if stream is None:
        with invocation.of(context).master() as master:
            figures = master.backlog()
        if as_json:
            console.show_json(figures)
        else:
            show(figures, empty="There are no streams.")
        return
    with invocation.of(context).master(invocation.READING_MESSAGES) as master:
        view = master.stream_backlog(stream, limit)
    if as_json:
        console.show_json(view)
    else:
        _show_stream(view)


@app.command("top")
def top(
    context: typer.Context,
    interval_s: float = typer.Option(2.0, "--interval", min=0.1, help="Seconds between two looks."),
    count: int = typer.Option(0, "--count", min=0, help="End after so many looks; 0 goes on until Ctrl-C."),
) -> None:
    """Watch the backlog of all streams: a table that is kept up to date, or lines where nobody looks at a terminal."""
    with foreground.until_interrupted() as interrupted, invocation.of(context).master() as master:
        before, looked_at, looks = master.backlog(), time.monotonic(), 0
        with console.Refreshed() as shown:
            while not interrupted.wait(interval_s):
                figures, now = master.backlog(), time.monotonic()
                rows = [_top_row(each, before, now - looked_at) for each in figures]
                shown.show(_TOP_COLUMNS, rows, title=f"{datetime.now():%H:%M:%S}")
                before, looked_at, looks = figures, now, looks + 1
                if looks == count:
                    return


@app.command("prioritise")
def prioritise(
    context: typer.Context,
    stream: str = typer.Argument(help="The stream's name.", callback=invocation.stream_name),
    messages: list[str] = typer.Argument(metavar="MESSAGE...", help="Ids of messages that wait."),
    priority: int = typer.Option(..., "--priority", help="Larger ones go first; -32768 to 32767."),
) -> None:
    """Let messages go earlier or later than they would; what an engine has, or what is dead, stays as it is."""
    named = list(dict.fromkeys(messages))
    with invocation.of(context).master(invocation.CHANGING) as master:
        changes = [
            master.prioritise(stream, named[at : at + MAX_NAMED], priority) for at in range(0, len(named), MAX_NAMED)
        ]
    count, refused = sum(each.changed for each in changes), [why for each in changes for why in each.refused]
    if count:
        console.say(f"{console.count(count, 'message')} of stream {stream!r} now: priority {priority}.")
    if refused:
        raise Conflict(_said(refused))


def _said(refused: Sequence[NotChanged]) -> str:
    shown = " ".join(f"{each.message}: {each.why}" for each in refused[:10])
    return f"{shown} And {len(refused) - 10} more." if len(refused) > 10 else shown


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
            "shed since start",
        ),
        [_row(each) for each in figures],
        empty=empty,
    )


def _row(each: BacklogFigures) -> tuple[console.Cell, ...]:
    since_start = (each.stored_total, each.done_total, each.late_total, each.shed_total)
    return (*_now(each), *since_start)


def _now(each: BacklogFigures) -> tuple[console.Cell, ...]:
    oldest = console.duration(each.oldest_age_s) if each.ready or each.reserved else ""
    return (each.stream, each.ready, each.reserved, each.dead, format_size(each.waiting_bytes), oldest)


def _show_stream(view: BacklogView) -> None:
    show([view.figures])
    _say_fill(view.fill)
    if view.oldest:
        _show_waiting(view)
    else:
        console.say("Nothing waits.")
    console.show_table(
        ("message", "priority", "size", "shed", "why"),
        [_shed_row(each) for each in view.shed],
        title="Shed for others, the latest first",
    )


def _say_fill(fill: BacklogFill) -> None:
    console.say(
        f"All streams together: {_of(fill.used_bytes, fill.max_bytes)}, {fill.messages:,} of {fill.max_messages:,} "
        f"messages; dead letters {_of(fill.dead_bytes, fill.dead_max_bytes)}; "
        f"payloads in memory {_of(fill.memory_bytes, fill.memory_max_bytes)}."
    )


def _of(size_bytes: int, max_bytes: int) -> str:
    return f"{format_size(size_bytes)} of {format_size(max_bytes)}"


def _show_waiting(view: BacklogView) -> None:
    columns = ("message", "state", "priority", "size", "age", "attempts", "crashes", "engine")
    if {each.message for each in view.next} == {each.message for each in view.oldest}:
        rows = [_message_row(each) for each in view.next]
        console.show_table(columns, rows, title="Goes next, and has waited for longest")
        return
    console.show_table(
        columns, [_message_row(each) for each in view.next], title="Goes next", empty="Nothing is ready now."
    )
    console.show_table(columns, [_message_row(each) for each in view.oldest], title="Has waited for longest")


def _message_row(each: WaitingMessage) -> tuple[console.Cell, ...]:
    state = f"tried again in {console.duration(each.ready_in_s)}" if each.state == "delayed" else each.state
    if each.is_suspect:
        state = f"{state}, suspect"
    size, age = format_size(each.size_bytes), console.duration(each.age_s)
    return (each.message, state, each.priority, size, age, each.attempts, each.crashes, each.engine)


def _shed_row(each: ShedMessage) -> tuple[console.Cell, ...]:
    size, shed = format_size(each.size_bytes), f"{console.duration(each.shed_for_s)} ago"
    return (each.message, each.priority, size, shed, each.why)


_TOP_COLUMNS = ("backlog of", "ready", "reserved", "dead", "waiting", "oldest", "stored/s", "done/s")


def _top_row(each: BacklogFigures, before: Sequence[BacklogFigures], passed_s: float) -> tuple[console.Cell, ...]:
    past = next((other for other in before if other.stream == each.stream), each)
    # A master that was restarted in between counts from zero again.
    stored, done = max(0, each.stored_total - past.stored_total), max(0, each.done_total - past.done_total)
    return (*_now(each), f"{stored / passed_s:,.1f}", f"{done / passed_s:,.1f}")
