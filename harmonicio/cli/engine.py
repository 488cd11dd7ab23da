"""``harmonicio engine …``: processing engines."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import typer

from harmonicio.cli import console, engine_log, foreground, invocation, readiness
from harmonicio.cli.new_engine import make_engine_folder
from harmonicio.control.messages import EngineView
from harmonicio.core.errors import InvalidInput
from harmonicio.core.sizes import format_size
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.containers.image_name import parse_image_name

app = typer.Typer(no_args_is_help=True)
#: The handler that runs a program.
COMMAND = "harmonicio.engine.command"


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


@app.command("new")
def new(name: str = typer.Argument(help="Of the engine: its folder, function, image and stream.")) -> None:
    """Make a folder with a small engine that works, its test and its Dockerfile, to put your own code in."""
    made = make_engine_folder(name)
    console.say(f"Made {name}/ with {', '.join(made)}. What now:")
    console.say(f"  harmonicio up {name}/engine.py    try it, without a container; harmonicio send {name} FILE")
    console.say(f"  python -m pytest {name}           test it, without a cluster")
    console.say(f"  harmonicio image build {name}     build its image")
    console.say(f"  harmonicio up --image {name}      try it in a container")


@app.command("run")
def run(
    context: typer.Context,
    handler: Path | None = typer.Argument(None, help="FILE.py that holds the handler."),
    command: str | None = typer.Option(
        None,
        "--exec",
        help="Instead of FILE.py: a program with its arguments, started for each message without a shell.",
    ),
    image: str | None = typer.Option(None, help="Instead of FILE.py: a container image of an engine."),
    stream: str | None = typer.Option(None, help="The stream that it handles.", callback=invocation.stream_name),
    engines: int = typer.Option(1, min=1, help="How many engines."),
) -> None:
    """Run a handler, a program of any language, or an image as the engines of a stream, until interrupted.

    The stream is declared with it, workers of the cluster run it, and it is scaled to none at the end.

    A program gets the payload on its standard input, or in a file whose path stands for {input}. Its standard output is
    the result. {metadata} stands for the path of a JSON file, {id} for the message's id.
    """
    declaration = declaration_of(handler, command, image, stream, engines)
    name = declaration.name
    with foreground.until_interrupted() as interrupted, invocation.of(context).master(invocation.CHANGING) as master:
        master.declare_stream(declaration)
        console.say(f"Stream {name!r} shall run {handler or command or image} with {console.count(engines, 'engine')}.")
        readiness.follow(master, [name], interrupted)
        master.scale_stream(name, 0)
        console.say(f"Stream {name!r} has no engines now; its messages wait in the backlog.")


def declaration_of(
    handler: Path | None, command: str | None, image: str | None, stream: str | None, engines: int
) -> StreamDeclaration:
    """Return the declaration of a stream that runs a handler, a program or an image.

    Raises:
        InvalidInput: not exactly one of them is given, it cannot be used, or the stream has no name.
    """
    if sum(each is not None for each in (handler, command, image)) != 1:
        raise InvalidInput(
            "Engines run a handler, a program or an image.", hint="Give one: FILE.py, --exec 'program …' or --image."
        )
    runs, parameters, or_else = "", {}, "."
    if handler is not None:
        runs, or_else = str(invocation.handler_file(handler)), f"; or try it without a cluster: harmonicio up {handler}"
    elif command is not None:
        runs, parameters = COMMAND, {"command": _arguments(command)}
    elif image is not None:
        parse_image_name(image)
        or_else = f"; or try it without a cluster: harmonicio up --image {image}"
    if stream is None:
        raise InvalidInput(
            f"For which stream shall {handler or command or image} run?", hint=f"Add --stream NAME{or_else}"
        )
    return StreamDeclaration(stream, handler=runs, image=image or "", engines=engines, parameters=parameters).checked()


def _arguments(command: str) -> list[str]:
    """Return the texts of a command; the path of its program is that from here, because engines run elsewhere."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"--exec {command!r} cannot be read: {error}.", hint="Close every quote.") from None
    if not arguments:
        raise InvalidInput("--exec names no program.", hint="Write it like --exec 'program --in {input}'.")
    program, *others = arguments
    return [os.path.abspath(program) if "/" in program else program, *others]


@app.command("logs")
def logs(
    context: typer.Context,
    engine: str = typer.Argument(help="Its id; see: harmonicio engine ls", callback=invocation.engine_name),
    is_followed: bool = typer.Option(
        False, "--follow", "-f", help="Go on with what it writes, until it has ended or until interrupted."
    ),
    lines: int | None = typer.Option(None, "--lines", "-n", min=0, help="Begin with so many lines; by default 64 KiB."),
) -> None:
    """Print the end of an engine's log, also some time after the engine has ended."""
    with invocation.of(context).master(invocation.READING_LOGS) as master:
        part = master.engine_log(engine)
        console.show_text(engine_log.last_lines(part.text, lines))
        if is_followed and not part.is_over:
            engine_log.follow(master, engine, part.mark)


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
