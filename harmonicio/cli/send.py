"""``harmonicio send``: files to a stream."""

from __future__ import annotations

from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.settings_files import read_token
from harmonicio.core.errors import DeliveryError
from harmonicio.core.roles import Role
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.stream_connector.progress import Progress


def run(
    context: typer.Context,
    stream: str = typer.Argument(help="The stream."),
    files: list[Path] = typer.Argument(help="The files, one message each.", exists=True, dir_okay=False),
    priority: int = typer.Option(0, help="Larger goes first where messages wait."),
    is_result_wanted: bool = typer.Option(True, "--result/--no-result", help="Wait for the results and print them."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Send files; each is one message whose metadata has its name."""
    settings = invocation.of(context).settings()
    token = read_token(settings, (Role.SOURCE, Role.ADMIN))
    rows = []
    with StreamConnector(stream, master=settings.master.url, token=token) as connector:
        deliveries = [
            (path, connector.send_file(path, metadata={"name": path.name}, priority=priority)) for path in files
        ]
        with Progress("processed" if is_result_wanted else "sent", len(files), is_shown=not as_json) as progress:
            for path, delivery in deliveries:
                rows.append(_row(path, delivery, is_result_wanted))
                progress.advance()
        connector.flush("safe")
    if as_json:
        console.show_json(rows)
    else:
        console.show_table(
            ("file", "message", "state", "route", "result"), [tuple(map(str, row.values())) for row in rows]
        )
    if any(row["state"] in ("failed", "rejected") for row in rows):
        raise typer.Exit(1)


def _row(path: Path, delivery: Delivery, is_result_wanted: bool) -> dict[str, object]:
    result: object = ""
    if is_result_wanted:
        try:
            result = delivery.result()
        except DeliveryError as error:
            result = error.text
    return {
        "file": str(path),
        "message": delivery.message_id,
        "state": str(delivery.state),
        "route": delivery.route,
        "result": result,
    }
