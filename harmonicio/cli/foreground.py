"""A role that runs in the foreground until somebody stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """Give an event that is set by SIGINT or SIGTERM; a second signal ends the process as it would have before."""
    interrupted = threading.Event()
    previous: dict[int, Any] = {int(each): signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
