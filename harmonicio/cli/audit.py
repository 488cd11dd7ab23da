"""``harmonicio audit …``: who changed what."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.audit_messages import MAX_RECORDS, AuditRecord

app = typer.Typer(no_args_is_help=True)

DAMAGED = 1
_COLUMNS = ("no", "at", "who", "role", "from", "did", "to", "details", "answer")


@app.callback()
def _audit() -> None:
    """Show who changed what, and whether the records are as they were written."""


@app.command("show")
def show(
    context: typer.Context,
    last: int = typer.Option(50, min=1, max=MAX_RECORDS, help="How many records."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Show the latest records; ends with status 1 when something is wrong with any that is kept."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        view = master.audit(last)
    if as_json:
        console.show_json(view)
    else:
        console.show_table(_COLUMNS, map(_row, view.records), empty="Nothing was changed yet.")
        for each in view.damage:
            console.say(each)
        if view.kept and not view.damage:
            console.say(f"As they were written: all of {view.kept}. The digest of the last one: {view.digest}")
    if view.damage:
        raise typer.Exit(DAMAGED)


def _row(record: AuditRecord) -> tuple[console.Cell, ...]:
    at = f"{datetime.fromtimestamp(record.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    to = ", ".join(record.names.values())
    details = ", ".join(f"{name} {value}" for name, value in record.details.items() if value and name != "sha256")
    return record.number, at, record.who, record.role, record.came_from, record.did, to, details, record.status
