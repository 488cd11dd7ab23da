"""What runs in the foreground: a role until somebody stops it, a command for as long as it may take."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from enum import Enum
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TypeVar

import typer

T = TypeVar("T")

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


class Why(Enum):
    """Why a command ends before all is done."""

    INTERRUPTED = "Interrupted"
    TERMINATED = "Terminated"
    TIME_IS_UP = "The time is up"
    HOPELESS = "Nobody answers"


class Stop:
    """Whether a block is to end, and why: the first reason counts."""

    def __init__(self) -> None:
        self.why: Why | None = None

    def __repr__(self) -> str:
        return f"<Stop: {self.why}>"


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
def stoppable(
    end: Callable[[Why], None], *, timeout_s: float | None = None, is_hopeless: Callable[[], bool] = lambda: False
) -> Iterator[Stop]:
    """While the block runs, call ``end`` at the first signal, or when the time is up; the block then has to end soon.

    Nothing is raised where the program just is when a signal comes: there it could be lost, or leave a lock in a wrong
    state. The second signal ends the process at once.

    Args:
        end: Called once at most, on another thread, with the reason, which the ``Stop`` has by then.
        timeout_s: Without it, ``is_hopeless`` is asked now and then, on that thread, too.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous: dict[int, Any] = {int(each): signal.getsignal(each) for each in numbers}
    stop = Stop()
    reasons: SimpleQueue[Why | None] = SimpleQueue()  # Its put may be called in a signal handler.
    until = None if timeout_s is None else time.monotonic() + timeout_s

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        reasons.put(Why.TERMINATED if number == signal.SIGTERM else Why.INTERRUPTED)

    def next_reason() -> Why | None:
        while True:
            try:
                return reasons.get(timeout=ASK_EVERY_S if until is None else max(0.0, until - time.monotonic()))
            except Empty:
                if until is not None:
                    return Why.TIME_IS_UP
                if is_hopeless():
                    return Why.HOPELESS

    def watch() -> None:
        stop.why = next_reason()
        if stop.why is not None:
            end(stop.why)

    watching = threading.Thread(target=watch, name="stop-watch", daemon=True)
    for each in numbers:
        signal.signal(each, interrupt)
    try:
        watching.start()
        yield stop
    finally:
        reasons.put(None)
        watching.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


def within(timeout_s: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, or raise what it raises; after the time it goes on without anybody waiting for it.

    Raises:
        TimeoutError: it took longer.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    return done.result(timeout_s)
