"""``harmonicio send``: files to a stream.

However it ends (all done, a time limit, Ctrl-C, SIGTERM, an error in the middle), it says of each file what became of
it, and which ones are not safe and so must be sent again, or are in the spool and so need not be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.cli.foreground import Stop, StopReason, stoppable
from harmonicio.control.settings_files import read_token
from harmonicio.core.errors import (
    DeliveryError,
    HarmonicIOError,
    InvalidInput,
    MasterUnavailable,
    OutcomeTimeout,
    StorageError,
)
from harmonicio.core.printable import printable
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.stream_connector.connector import INTERRUPTED_WITHIN_S
from harmonicio.stream_connector.delivery import DeliveryState
from harmonicio.stream_connector.progress import Progress
from harmonicio.stream_connector.sources import identity_of

INTERRUPTED, TERMINATED = 130, 143
#: How long SIGTERM leaves for what is under way; less where a spool keeps it.
TERMINATED_WITHIN_S, SPOOLED_WITHIN_S = 10.0, 1.0
#: Without a time limit, so long nobody may answer: neither the master nor an engine.
ABSENT_WITHIN_S = 60.0
#: So many names of files that are not safe are in the last line; the table has all.
NAMED = 5

#: Of a file that was never handed to the connector.
NOT_SENT = "not_sent"
#: Of a file that was sent before, by this run or another, and whose outcome nobody keeps any more: it is no failure.
RECOGNISED = "recognised"

Row = dict[str, object]


def run(
    context: typer.Context,
    stream: str = typer.Argument(help="The stream.", callback=invocation.stream_name),
    files: list[Path] = typer.Argument(
        None, help="The files, one message each; its metadata has the file's name. None: only what is in the spool."
    ),
    priority: int = typer.Option(0, help="Larger goes first where messages wait."),
    is_result_wanted: bool = typer.Option(
        True, "--result/--no-result", help="Wait for the results and print them; or only until the files are safe."
    ),
    timeout_s: float | None = typer.Option(
        None, min=0.001, help="Seconds to wait at most; by default without end, and 60 s where nobody answers."
    ),
    spool: Path | None = typer.Option(
        None, help="Folder that keeps what is not safe when this ends; the next send with it delivers that first."
    ),
    as_json: bool = console.AS_JSON,
) -> None:
    files = files or []
    _check(files)
    asked = invocation.of(context)
    settings = asked.settings()
    folder = spool or settings.connector.spool_folder
    if not files and folder is None:
        raise InvalidInput("There is nothing to send.", hint="Name files, or with --spool a folder of earlier ones.")
    connector = _connector(asked, settings, stream, folder)
    deliveries: list[Delivery] = []
    absent: list[HarmonicIOError] = []
    with stoppable(
        lambda why: _close(connector, why, has_spool=folder is not None),
        timeout_s=timeout_s,
        is_hopeless=lambda: _is_hopeless(connector, absent),
    ) as stop:
        outgoing = _send_files(connector, files, priority, stop, has_spool=folder is not None)
        trouble = _trouble_of(
            connector,
            stop,
            lambda: _send(connector, outgoing, len(files), deliveries, is_result_wanted, is_shown=not as_json),
        )
    if trouble is not None and stop.why is None and not any(each.is_safe for each in deliveries):
        trouble.hint = f"{trouble.hint} {connector.spool_trouble}".strip()
        raise trouble
    rows = [
        _row(path, each, is_result_wanted, has_spool=folder is not None)
        for path, each in zip_longest(files, deliveries)
    ]
    _show(rows, as_json)
    if stop.why is not None or trouble is not None:
        safe = _what_is_safe(rows, folder, connector.figures().spooled)
        before = str(trouble) if stop.why and trouble else ""
        text = " ".join(filter(None, (before, safe, connector.spool_trouble)))
        _tell(stop.why, trouble, text, timeout_s, absent)
    _raise_for_the_rest(rows, folder, connector)


def _connector(asked: invocation.Invocation, settings: Settings, stream: str, folder: Path | None) -> StreamConnector:
    return StreamConnector(
        stream,
        master=settings.master.url,
        token=read_token(settings, (Role.SOURCE, Role.ADMIN)),
        spool=folder,
        settings=asked.settings_file,
    )


def _trouble_of(connector: StreamConnector, stop: Stop, send: Callable[[], None]) -> HarmonicIOError | None:
    """Send; return what went wrong before it was stopped: what comes then only says that the connector is closed."""
    trouble: HarmonicIOError | None = None
    try:
        with connector:
            try:
                send()
            except HarmonicIOError as error:
                trouble = None if stop.why else error
                raise
    except HarmonicIOError as error:
        return trouble if stop.why else error
    return None


def _send_files(
    connector: StreamConnector, files: Sequence[Path], priority: int, stop: Stop, *, has_spool: bool
) -> Iterator[Delivery]:
    """Send each file until stopped; with a spool under an id by which a file that is sent again is recognised."""
    for path in files:
        if stop.why is not None:
            return
        message_id = identity_of(path) if has_spool else None
        yield connector.send_file(path, metadata={"name": path.name}, priority=priority, message_id=message_id)


def _send(
    connector: StreamConnector,
    outgoing: Iterator[Delivery],
    count: int,
    deliveries: list[Delivery],
    is_result_wanted: bool,
    *,
    is_shown: bool,
) -> None:
    is_shown = is_shown and bool(count)  # Else only what is in the spool is sent, which has no bar.
    with Progress("queued", count, is_shown=is_shown) as progress:
        for delivery in outgoing:
            deliveries.append(delivery)
            progress.advance()
    with Progress("processed" if is_result_wanted else "safe", count, is_shown=is_shown) as progress:
        for delivery in deliveries:
            _await(connector, delivery, is_result_wanted)
            if delivery.is_final or (delivery.is_safe and not is_result_wanted):  # Else it was stopped.
                progress.advance()
    connector.flush("safe")  # Also what was in the spool.


def _close(connector: StreamConnector, why: StopReason, *, has_spool: bool) -> None:
    """Who terminates a program leaves it some time, more than who interrupts it."""
    within_s = SPOOLED_WITHIN_S if has_spool else TERMINATED_WITHIN_S
    with suppress(HarmonicIOError):  # What is not safe is said at the end.
        connector.close(within_s if why is StopReason.TERMINATED else INTERRUPTED_WITHIN_S)


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


def _row(path: Path, delivery: Delivery | None, is_result_wanted: bool, *, has_spool: bool) -> Row:
    if delivery is None:
        return {"file": str(path), "message": "", "state": NOT_SENT, "is_safe": False, "route": "", "result": ""}
    result: object = ""
    if delivery.is_final:
        try:
            result = delivery.result()
        except DeliveryError as error:
            result = error.text
        else:
            result = result if is_result_wanted else ""
    is_recognised = has_spool and delivery.state is DeliveryState.EXPIRED
    return {
        "file": str(path),
        "message": delivery.message_id,
        "state": RECOGNISED if is_recognised else str(delivery.state),
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


def _is_hopeless(connector: StreamConnector, absent: list[HarmonicIOError]) -> bool:
    """Whether nobody answers, or nothing can be read, for so long that waiting makes no sense; note which."""
    if connector.stranded_s > ABSENT_WITHIN_S:
        text = f"Neither the master nor an engine has answered for {ABSENT_WITHIN_S:g} s."
        absent.append(MasterUnavailable(text, hint="Start the master; --timeout-s waits longer for it."))
    elif connector.unreadable_s > ABSENT_WITHIN_S:
        text = f"What is left has not been readable for {ABSENT_WITHIN_S:g} s."
        absent.append(StorageError(text, hint="Bring back the files that the log names; --timeout-s waits longer."))
    return bool(absent)


def _tell(
    why: StopReason | None,
    trouble: HarmonicIOError | None,
    text: str,
    timeout_s: float | None,
    absent: Sequence[HarmonicIOError],
) -> None:
    """Say what is not safe, and end with the error or the exit code that belongs to it."""
    if why is StopReason.TIME_IS_UP:
        raise OutcomeTimeout(f"The time of {timeout_s:g} s is up. {text}")
    if why is StopReason.HOPELESS:
        raise type(absent[0])(f"{absent[0].text} {text}", hint=absent[0].hint)
    if trouble is not None and why is None:
        print(printable(text), file=sys.stderr)
        raise trouble
    said, code = ("Terminated", TERMINATED) if why is StopReason.TERMINATED else ("Interrupted", INTERRUPTED)
    print(printable(f"{said}. {text}"), file=sys.stderr)
    raise typer.Exit(code)


def _raise_for_the_rest(rows: Sequence[Row], spool: Path | None, connector: StreamConnector) -> None:
    """All was sent that could be: end with an error or exit code 1 if something failed, or is left in the spool."""
    spooled = connector.figures().spooled
    left = _what_is_safe(rows, spool, spooled) if spooled else ""
    if connector.spool_trouble:
        raise StorageError(f"{connector.spool_trouble} {left}".rstrip())
    if left:
        raise OutcomeTimeout(left)
    if any(row["state"] in (DeliveryState.FAILED, DeliveryState.REJECTED, DeliveryState.EXPIRED) for row in rows):
        raise typer.Exit(1)


def _what_is_safe(rows: Sequence[Row], spool: Path | None, spooled: int) -> str:
    """Say what failed, and what is not safe or in the spool: one does not hide the other."""
    unsafe = [str(row["file"]) for row in rows if not row["is_safe"] and row["state"] != DeliveryState.REJECTED]
    failed = [row for row in rows if row["state"] in (DeliveryState.FAILED, DeliveryState.REJECTED)]
    said = []
    if failed:
        rest = "" if unsafe else "; the rest arrived"
        said.append(f"Of {console.count(len(rows), 'file')}, {len(failed):,} failed, as listed above{rest}.")
    if unsafe:
        said.append(_what_is_not_safe(rows, unsafe, spool))
    elif spooled:
        earlier = f"{console.count(spooled, 'message')} {'stays' if spooled == 1 else 'stay'}"
        said.append(f"Of earlier ones, {earlier} in the spool {spool}; the next send with it delivers that first.")
    elif not failed:
        arrived = f"{console.count(len(rows), 'file')} arrived" if rows else "the spool is empty"
        said.append(f"Nothing is lost: {arrived}. See: harmonicio status.")
    return " ".join(said)


def _what_is_not_safe(rows: Sequence[Row], unsafe: Sequence[str], spool: Path | None) -> str:
    named = ", ".join(unsafe[:NAMED]) + (f" and {len(unsafe) - NAMED:,} more" if len(unsafe) > NAMED else "")
    are = "is" if len(unsafe) == 1 else "are"
    text = f"Of {console.count(len(rows), 'file')}, {len(unsafe):,} {are} not safe: {named}."
    unsent = [row for row in rows if row["state"] == NOT_SENT]
    if spool is not None:
        rest = f" Send the {console.count(len(unsent), 'file')} again that were not sent." if unsent else ""
        return f"{text} What was sent stays in the spool {spool}; the next send with it delivers that first.{rest}"
    return f"{text} Send again what is not safe; what was under way may be processed twice."
