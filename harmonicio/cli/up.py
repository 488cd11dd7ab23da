"""``harmonicio up``: a whole cluster on this machine, in one command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from harmonicio.cli import console, foreground, invocation, logs, readiness
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.cli.worker import UNFINISHED
from harmonicio.control import open_file_limit
from harmonicio.control.messages import StreamView
from harmonicio.control.settings_files import token_file, write_token_file
from harmonicio.control.stream_files import load_streams
from harmonicio.core.errors import InvalidInput
from harmonicio.core.roles import Role
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.containers.image_name import parse_image_name

ECHO = "harmonicio.engine.echo"


def run(
    context: typer.Context,
    what: Path | None = typer.Argument(None, help="A handler (FILE.py) or streams (FILE.toml); nothing: an echo."),
    image: str | None = typer.Option(None, help="Instead of FILE: a container image of an engine."),
    engines: int | None = typer.Option(None, min=0, help="Engines of the handler or image; by default 1."),
    stream: str | None = typer.Option(
        None,
        help="Name of their stream; by default the image's or the file's, or of an engine.py its folder's.",
        callback=invocation.stream_name,
    ),
    port: int | None = typer.Option(None, help="Port of the REST API; 0 takes a free one."),
    data_port: int | None = typer.Option(None, help="Port for the backlog's messages; 0 takes a free one."),
    drain_s: float = typer.Option(
        foreground.DRAIN_S, min=0.0, help="Seconds that engines may take to finish when it is interrupted."
    ),
) -> None:
    """Start master, worker and engines on this machine, until interrupted.

    Interrupted, it lets engines finish what they run; interrupted again, it ends them at once. The exit code is 4 when
    any was ended before it had finished.
    """
    settings = invocation.of(context).settings({"master.port": port, "master.data_port": data_port})
    declarations = declarations_of(what, image, stream, engines)
    _have_images(declarations, settings.docker)
    logs.start("WARNING")
    open_file_limit.raise_own()
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
                console.say(f"{_declared_earlier(view, cluster)} Remove it: harmonicio stream rm {name}")
        with foreground.ending_when_broken("cluster", lambda: cluster.gone_parts):
            readiness.follow(cluster.client, names, interrupted)
        console.say("Finishing what runs …")
        is_drained = cluster.stop(drain_s, interrupted.forced)
    foreground.end(is_drained, UNFINISHED)


def declarations_of(
    what: Path | None, image: str | None, stream: str | None, engines: int | None
) -> list[StreamDeclaration]:
    """Return the streams to start with: those of a file, one for a handler or an image, or an echo."""
    if what is not None and image is not None:
        raise InvalidInput(f"Engines run either {what} or the image {image}.", hint="Give one of them.")
    if what is not None and what.suffix == ".toml":
        if (stream, engines) != (None, None):
            raise InvalidInput(f"--stream and --engines are for a handler or an image; {what} says both itself.")
        return list(load_streams(what))
    wanted = 1 if engines is None else engines
    if image is not None:
        name = stream or parse_image_name(image).repository.rpartition("/")[2]
        return [StreamDeclaration(name, image=image, engines=wanted).checked()]
    if what is None:
        return [StreamDeclaration(stream or "echo", handler=ECHO, engines=wanted)]
    handler = invocation.handler_file(what, or_else=" or streams (FILE.toml)")
    stem = handler.parent.name if handler.name == "engine.py" else handler.stem
    name = stream or re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")
    return [StreamDeclaration(name, handler=str(handler), engines=wanted).checked()]


def _have_images(declarations: Sequence[StreamDeclaration], settings: DockerSettings) -> None:
    """Find the images before anything starts, so that one that cannot be had is an error and no trouble later."""
    names = dict.fromkeys(each.image for each in declarations if each.image)
    if names:
        from harmonicio.cli.image import have_image  # Who needs no containers needs no such package.

        for name in names:
            have_image(name, settings)


def _declared_earlier(view: StreamView, cluster: LocalCluster) -> str:
    declaration, engines = view.declaration, console.count(view.desired, "engine")
    text = f"Declared earlier: {declaration.name!r} with {engines}"
    if not view.desired or cluster.starts(declaration):
        return f"{text}."
    kind, started = ("an image", "processes") if declaration.image else ("a handler", "containers")
    return f"{text}, which cannot start now: it has {kind}, and this cluster starts {started}."
