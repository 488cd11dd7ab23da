"""The log of an engine as it is written, from anywhere where the master is reached.

Ctrl-C ends the following at once: the requests are made beside the main thread, and cut off.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO

from harmonicio.cli import console, foreground
from harmonicio.control.client import MasterClient
from harmonicio.control.log_messages import LOG_PART_BYTES, MAX_LOG_WAIT_S
from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.core.printable import printable

#: What comes within so many seconds is fetched at once; after a failure it takes somewhat longer.
GATHER_S, RETRY_S = 0.2, 1.0


def last_lines(text: str, count: int | None) -> str:
    """Return the last lines of a text, or all."""
    lines = StringIO(text, newline="\n").readlines()
    return text if count is None else "".join(lines[max(0, len(lines) - count) :])


def follow(master: MasterClient, engine: str, mark: str) -> None:
    """Print what an engine logs after a mark, until it has ended or until interrupted; then the client is closed.

    Raises:
        NotFound: nothing is known of the engine any more.
    """
    with foreground.until_interrupted() as is_over, ThreadPoolExecutor(1, "cli-log") as beside:
        following = beside.submit(follow_until, master, engine, mark, is_over)
        following.add_done_callback(lambda _: is_over.set())
        is_over.wait()
        master.close()
        with suppress(ConnectionEnded):
            following.result()


def follow_until(master: MasterClient, engine: str, mark: str, is_over: threading.Event) -> None:
    """Print what an engine logs after a mark, also when the master or the worker is away for a while."""
    silence = ""
    while not is_over.is_set():
        try:
            part = master.engine_log(engine, mark, MAX_LOG_WAIT_S)
        except Unavailable as error:
            if not silence:
                print(printable(f"{error} It is asked again."), file=sys.stderr)
            silence = error.text
            is_over.wait(RETRY_S)
            continue
        silence, mark = "", part.mark
        console.show_text(part.text)
        if part.is_over:
            return
        if len(part.text) < LOG_PART_BYTES // 2:
            is_over.wait(GATHER_S)
