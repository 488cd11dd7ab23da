"""``harmonicio stream …``: streams, as the administrator declares them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from harmonicio.cli import backlog, console, invocation, readiness
from harmonicio.control.json_codec import as_plain
from harmonicio.control.messages import BacklogFigures, StreamView
from harmonicio.control.stream_files import load_streams
from harmonicio.core.errors import Conflict, Unavailable
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)
NAME = typer.Argument(help="The stream's name.", callback=invocation.stream_name)


@app.command("apply")
def apply(
    context: typer.Context,
    file: Path = typer.Argument(help=r"TOML file with a table \[streams.NAME] for each stream."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Declare every stream of a file; what is the same already is left alone, its engines with the code they loaded."""
    declarations = load_streams(file)
    with invocation.of(context).master(invocation.CHANGING) as master:
        before = [view.declaration for view in master.streams()]
        declared = [master.declare_stream(each) for each in declarations]
    if as_json:
        console.show_json(declared)
        return
    for each in declared:
        what = f"version {each.version}, {console.count(each.engines, 'engine')}"
        if each in before:
            console.say(
                f"Stream {each.name!r} has not changed: {what}. They keep the code that they have loaded; "
                f"to have it loaded anew: harmonicio stream restart {each.name}"
            )
        else:
            console.say(f"Stream {each.name!r} is declared: {what}.")


@app.command("ls")
def list_all(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    """List the streams."""
    with invocation.of(context).master() as master:
        streams = master.streams()
    if as_json:
        console.show_json(streams)
    else:
        show_all(streams)


@app.command("show")
def show(context: typer.Context, name: str = NAME, as_json: bool = console.AS_JSON) -> None:
    """Show one stream's declaration, engines and backlog."""
    with invocation.of(context).master() as master:
        view, workers = master.stream(name), master.workers()
    if as_json:
        console.show_json(view)
        return
    plain = {item.name: getattr(view.declaration, item.name) for item in dataclasses.fields(view.declaration)}
    console.show_table(("setting", "value"), [(key, _value(key, value)) for key, value in plain.items()])
    console.say(f"Running: {view.running} of {console.count(view.desired, 'engine')}{_not_placed(view)}.")
    readiness.show_troubles(workers, name)
    backlog.show([view.backlog])


@app.command("scale")
def scale(
    context: typer.Context,
    name: str = NAME,
    engines: int = typer.Argument(min=0, help="How many engines shall run."),
) -> None:
    """Run more or fewer engines; none that goes on is restarted."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        view = master.scale_stream(name, engines)
    running = f"running now: {view.running}{_not_placed(view)}"
    console.say(f"Stream {name!r} shall have {console.count(view.desired, 'engine')}; {running}.")


@app.command("restart")
def restart(
    context: typer.Context,
    name: str = NAME,
    wait_s: float = typer.Option(readiness.READY_WITHIN_S, min=0.0, help="Seconds to wait until all are replaced."),
) -> None:
    """Replace a stream's engines one after another, so that they load their handler as it is now."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        version = master.restart_stream(name).declaration.version
        deadline = time.monotonic() + wait_s
        while (old := readiness.earlier_engines(master, name, version)).taking:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Stream {name!r} is version {version} now, and {console.count(old.taking, 'engine')} of an "
                    "earlier one still take messages.",
                    hint=f"Why: harmonicio stream show {name}",
                )
            time.sleep(readiness.POLL_S)
    console.say(f"Stream {name!r} is version {version} now: no engine of an earlier one takes messages any more.")
    if old.lost:
        are = "is" if old.lost == 1 else "are"
        console.say(
            f"But {console.count(old.lost, 'engine')} of an earlier one {are} lost: the master hears nothing of them, "
            f"and sources that still reach them go on to use them. See: harmonicio stream show {name}"
        )


@app.command("rm")
def remove(
    context: typer.Context,
    name: str = NAME,
    is_forced: bool = typer.Option(
        False, "--force", help="Delete its waiting messages and dead letters; they are lost."
    ),
) -> None:
    """Remove a stream and its engines; refused while it has messages that wait, or dead letters."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        lost = master.stream(name).backlog
        try:
            master.delete_stream(name, is_forced=is_forced)
        except Conflict as error:
            hint = "End its sources and let the messages be processed, or delete them all with --force."
            raise Conflict(error.text, hint=hint) from None
    console.say(f"Stream {name!r} is removed{_with_what(lost)}.")


def _not_placed(view: StreamView) -> str:
    return f"; the workers have no place for {view.unplaced} (see worker.max_engines)" if view.unplaced else ""


def _with_what(lost: BacklogFigures) -> str:
    """Return what is deleted together with a stream."""
    waiting = lost.ready + lost.reserved
    if not waiting and not lost.dead:
        return ""
    messages = f"{console.count(waiting, 'waiting message')} ({format_size(lost.waiting_bytes)})"
    return f"; {messages} and {console.count(lost.dead, 'dead letter')} of it are deleted and lost"


def show_all(streams: Sequence[StreamView]) -> None:
    """Print the streams."""
    console.show_table(
        ("stream", "version", "runs", "engines", "unplaced", "waiting", "dead"),
        [_row(each) for each in streams],
        empty="There are no streams. Declare some with: harmonicio stream apply FILE",
    )


def _row(each: StreamView) -> tuple[console.Cell, ...]:
    declaration, waits = each.declaration, each.backlog
    runs = declaration.image or declaration.handler
    engines, waiting = f"{each.running} of {each.desired}", waits.ready + waits.reserved
    return (declaration.name, declaration.version, runs, engines, each.unplaced, waiting, waits.dead)


def _value(key: str, value: object) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    return value if isinstance(value, str) else json.dumps(as_plain(value))
