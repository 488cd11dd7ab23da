"""What runs in the foreground: a role until somebody stops it, a command for as long as it may take."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

#: How often it is asked whether waiting makes sense.
ASK_EVERY_S = 0.5
#: How often a role looks whether all of it is there.
LOOK_EVERY_S = 1.0
#: Exit code of a role that was stopped and could not hand over everything in time.
EXIT_FORCED = 4
DRAIN_S = 30.0


class Interruption(threading.Event):
    """Set by the first signal; ``forced`` by the second, for those who shall not wait any longer."""

    def __init__(self) -> None:
        super().__init__()
        self.forced = threading.Event()


class TimeIsUp(KeyboardInterrupt):
    """The time limit ends the waiting wherever it is, as Ctrl-C does."""


class Hopeless(KeyboardInterrupt):
    """Waiting makes no sense any more."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ends the waiting wherever it is, as Ctrl-C does."""


@contextmanager
def until_interrupted() -> Iterator[Interruption]:
    """Give an event that is set by SIGINT or SIGTERM; a third signal ends the process as it would have before."""
    interrupted = Interruption()
    previous: dict[int, Any] = {int(each): signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    events = iter((interrupted, interrupted.forced))

    def interrupt(number: int, frame: FrameType | None) -> None:
        event = next(events)
        if event is interrupted.forced:
            for each, handler in previous.items():
                signal.signal(each, handler)
        # In a thread, because this one may hold the event's lock at this moment.
        threading.Thread(target=event.set, name="interruption").start()

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end(is_drained: bool, text: str) -> None:
    """Say what was not handed over, if so, and end the command with the exit code that tells it."""
    if not is_drained:
        print(text, file=sys.stderr)
        raise typer.Exit(EXIT_FORCED)


@contextmanager
def ending_when_broken(role: str, gone_parts: Callable[[], Sequence[str]]) -> Iterator[None]:
    """While the block runs, end the process as soon as a part of the role is gone, so that it is started again.

    It ends at once, with exit code 1: to close what is broken may take for ever, and what is stored is safe.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            if gone := gone_parts():
                print(f"error: Of the {role} the {' and the '.join(gone)} is gone. Start it again.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)

    thread = threading.Thread(target=watch, name="parts-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does; after one of them, the next ends the process at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous: dict[int, Any] = {int(each): signal.getsignal(each) for each in numbers}

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for each in numbers:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(timeout_s: float | None, is_hopeless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise :class:`TimeIsUp` when the block takes longer than this, without which ``is_hopeless`` is asked.

    Args:
        is_hopeless: Asked in a signal handler now and then: whether to raise :class:`Hopeless`.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if timeout_s is not None:
            raise TimeIsUp
        if is_hopeless():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            raise Hopeless

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        if timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
        else:
            signal.setitimer(signal.ITIMER_REAL, ASK_EVERY_S, ASK_EVERY_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
