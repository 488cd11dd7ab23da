"""``harmonicio haste …``: what HASTE keeps."""

from __future__ import annotations

import typer

from harmonicio.cli import console, invocation
from harmonicio.core.errors import NotFound
from harmonicio.haste.storage_client import StorageClient

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """What HASTE keeps."""


@app.command("reconcile")
def reconcile(
    context: typer.Context,
    stream: str = typer.Argument(
        help="The stream; its tiers must be reachable from this host.", callback=invocation.stream_name
    ),
    older_than_s: float = typer.Option(3600.0, min=0.0, help="Leave payloads alone that are younger than this."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Remove payloads that crashes left in the tiers without a row, and name rows whose payload is missing."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        options = master.stream(stream).declaration.plugins.get("haste")
        if options is None:
            raise NotFound(f"HASTE sorts no stream {stream!r}.", hint="See: harmonicio stream ls")
        with StorageClient.from_options(options, client=master, default_feature_db="master") as storage:
            found = storage.reconcile(stream, older_than_s=older_than_s)
    if as_json:
        console.show_json(found)
    else:
        console.say(f"Removed {console.count(len(found.removed), 'payload')} without a row.")
        for location in found.missing:
            console.say(f"  missing: {location}")
    if found.missing:
        raise typer.Exit(1)
