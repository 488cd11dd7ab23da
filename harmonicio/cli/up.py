"""``harmonicio up``: a whole cluster on this machine, in one command."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from harmonicio.cli import console, foreground, invocation, logs, readiness
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.settings_files import token_file, write_token_file
from harmonicio.control.stream_files import load_streams
from harmonicio.core.errors import InvalidInput
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration

ECHO = "harmonicio.engine.echo"


def run(
    context: typer.Context,
    what: Path | None = typer.Argument(None, help="A handler (FILE.py) or streams (FILE.toml); nothing: an echo."),
    engines: int | None = typer.Option(None, min=0, help="Engines of the handler's stream; by default 1."),
    stream: str | None = typer.Option(
        None,
        help="Name of the handler's stream; by default the file's, or of an engine.py its folder's.",
        callback=invocation.stream_name,
    ),
    port: int | None = typer.Option(None, help="Port of the REST API; 0 takes a free one."),
    data_port: int | None = typer.Option(None, help="Port for the backlog's messages; 0 takes a free one."),
) -> None:
    """Start master, worker and engines on this machine, until interrupted."""
    settings = invocation.of(context).settings({"master.port": port, "master.data_port": data_port})
    declarations = declarations_of(what, stream, engines)
    logs.start("WARNING")
    with foreground.until_interrupted() as interrupted, LocalCluster.of(settings, declarations) as cluster:
        for role in (Role.ADMIN, Role.SOURCE):
            write_token_file(token_file(settings, role), cluster.token(role))
        for each in declarations:
            cluster.declare(each)
        console.say(
            f"The master listens on {cluster.url}; your tokens are in {token_file(settings, Role.ADMIN).parent}."
        )
        if cluster.url != invocation.of(context).settings().master.url:
            console.say(f"Tell the other commands and your sources: export HARMONICIO_MASTER_URL={cluster.url}")
        names = [each.name for each in declarations]
        for view in cluster.earlier_streams:
            name = view.declaration.name
            if name not in names:
                engines_wanted = console.count(view.desired, "engine")
                console.say(f"Declared earlier: {name!r} with {engines_wanted}. Remove it: harmonicio stream rm {name}")
        readiness.follow(cluster.client, names, interrupted)
        console.say("Finishing what runs …")


def declarations_of(what: Path | None, stream: str | None, engines: int | None) -> list[StreamDeclaration]:
    """Return the streams to start with: those of a file, one for a handler, or an echo."""
    if what is not None and what.suffix == ".toml":
        if (stream, engines) != (None, None):
            raise InvalidInput(f"--stream and --engines are for a handler; {what} says both itself.")
        return list(load_streams(what))
    wanted = 1 if engines is None else engines
    if what is None:
        return [StreamDeclaration(stream or "echo", handler=ECHO, engines=wanted)]
    handler = invocation.handler_file(what, or_else=" or streams (FILE.toml)")
    stem = handler.parent.name if handler.name == "engine.py" else handler.stem
    name = stream or re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")
    return [StreamDeclaration(name, handler=str(handler), engines=wanted).checked()]
