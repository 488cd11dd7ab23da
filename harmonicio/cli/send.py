"""``harmonicio send``: files to a stream.

However it ends (all done, a time limit, Ctrl-C, an error in the middle), it says of each file what became of it, and
which ones are not safe and so must be sent again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.cli.foreground import TimeIsUp, time_limit
from harmonicio.control.settings_files import read_token
from harmonicio.core.errors import DeliveryError, HarmonicIOError, InvalidInput, OutcomeTimeout
from harmonicio.core.printable import printable
from harmonicio.core.roles import Role
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.stream_connector.delivery import DeliveryState
from harmonicio.stream_connector.progress import Progress

INTERRUPTED = 130
#: So many names of files that are not safe are in the last line; the table has all.
NAMED = 5

Row = dict[str, object]


def run(
    context: typer.Context,
    stream: str = typer.Argument(help="The stream.", callback=invocation.stream_name),
    files: list[Path] = typer.Argument(help="The files, one message each; its metadata has the file's name."),
    priority: int = typer.Option(0, help="Larger goes first where messages wait."),
    is_result_wanted: bool = typer.Option(
        True, "--result/--no-result", help="Wait for the results and print them; or only until the files are safe."
    ),
    timeout_s: float | None = typer.Option(None, min=0.001, help="Seconds to wait at most; by default without end."),
    as_json: bool = console.AS_JSON,
) -> None:
    _check(files)
    settings = invocation.of(context).settings()
    url, token = settings.master.url, read_token(settings, (Role.SOURCE, Role.ADMIN))
    deliveries: list[Delivery] = []
    stopped: KeyboardInterrupt | HarmonicIOError | None = None
    try:
        with time_limit(timeout_s), StreamConnector(stream, master=url, token=token) as connector:
            with Progress("queued", len(files), is_shown=not as_json) as progress:
                for path in files:
                    deliveries.append(connector.send_file(path, metadata={"name": path.name}, priority=priority))
                    progress.advance()
            with Progress("processed" if is_result_wanted else "safe", len(files), is_shown=not as_json) as progress:
                for delivery in deliveries:
                    _await(connector, delivery, is_result_wanted)
                    progress.advance()
    except (KeyboardInterrupt, HarmonicIOError) as error:
        if isinstance(error, HarmonicIOError) and not any(each.is_safe for each in deliveries):
            raise
        stopped = error
    rows = [_row(path, each, is_result_wanted) for path, each in zip_longest(files, deliveries)]
    _show(rows, as_json)
    if stopped is not None:
        _tell(stopped, rows, timeout_s)
    if any(row["state"] in (DeliveryState.FAILED, DeliveryState.REJECTED, DeliveryState.EXPIRED) for row in rows):
        raise typer.Exit(1)


def _check(files: Sequence[Path]) -> None:
    """Find what cannot be sent before anything is."""
    for path in files:
        if path.is_dir():
            raise InvalidInput(f"{path} is a folder.", hint=f"Name its files, for example: {path / '*'}")
        if not path.exists():
            is_pattern = any(each in path.name for each in "*?[")
            raise InvalidInput(f"No file is called like {path}." if is_pattern else f"There is no file {path}.")
        if not os.access(path, os.R_OK):
            raise InvalidInput(f"You may not read the file {path}.")


def _await(connector: StreamConnector, delivery: Delivery, is_result_wanted: bool) -> None:
    if not is_result_wanted:
        connector.wait_until_safe([delivery])
        return
    with suppress(DeliveryError):  # It is in the table.
        delivery.result()


def _row(path: Path, delivery: Delivery | None, is_result_wanted: bool) -> Row:
    if delivery is None:
        return {"file": str(path), "message": "", "state": "not_sent", "is_safe": False, "route": "", "result": ""}
    result: object = ""
    if delivery.is_final:
        try:
            result = delivery.result()
        except DeliveryError as error:
            result = error.text
        else:
            result = result if is_result_wanted else ""
    return {
        "file": str(path),
        "message": delivery.message_id,
        "state": str(delivery.state),
        "is_safe": delivery.is_safe,
        "route": delivery.route,
        "result": result,
    }


def _show(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        console.show_json(rows)
    else:
        columns = ("file", "message", "state", "route", "result")
        console.show_table(columns, [[str(row[column]) for column in columns] for row in rows])


def _tell(stopped: KeyboardInterrupt | HarmonicIOError, rows: Sequence[Row], timeout_s: float | None) -> None:
    """Say which files are not safe, and end with the error or the exit code that belongs to it."""
    text = _what_is_safe(rows)
    if isinstance(stopped, TimeIsUp):
        raise OutcomeTimeout(f"The time of {timeout_s:g} s is up. {text}")
    print(printable(f"Interrupted. {text}" if isinstance(stopped, KeyboardInterrupt) else text), file=sys.stderr)
    if isinstance(stopped, HarmonicIOError):
        raise stopped
    raise typer.Exit(INTERRUPTED)


def _what_is_safe(rows: Sequence[Row]) -> str:
    unsafe = [str(row["file"]) for row in rows if not row["is_safe"] and row["state"] != DeliveryState.REJECTED]
    if not unsafe:
        return f"Nothing is lost: {console.count(len(rows), 'file')} arrived. See: harmonicio status"
    named = ", ".join(unsafe[:NAMED]) + (f" and {len(unsafe) - NAMED:,} more" if len(unsafe) > NAMED else "")
    are = "is" if len(unsafe) == 1 else "are"
    text = f"Of {console.count(len(rows), 'file')}, {len(unsafe):,} {are} not safe: {named}."
    return f"{text} Send again what is not safe; what was under way may be processed twice."
