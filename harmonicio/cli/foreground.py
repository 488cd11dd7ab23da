"""What runs in the foreground: a role until somebody stops it, a command for as long as it may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TimeIsUp(KeyboardInterrupt):
    """The time limit ends the waiting wherever it is, as Ctrl-C does."""


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


@contextmanager
def time_limit(timeout_s: float | None) -> Iterator[None]:
    """Raise :class:`TimeIsUp` when the block takes longer than this; ``None`` is no limit."""
    if timeout_s is None:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
