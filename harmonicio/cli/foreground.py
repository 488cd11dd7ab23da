"""What runs in the foreground: a role until somebody stops it, a command for as long as it may take."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TypeVar

import typer

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

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


class StopReason(Enum):
    """Why a command ends before all is done."""

    INTERRUPTED = auto()
    TERMINATED = auto()
    TIME_IS_UP = auto()
    HOPELESS = auto()


class Stop:
    """Whether a block is to end, and why: the first reason counts."""

    def __init__(self) -> None:
        self.why: StopReason | None = None
        self._reasons: SimpleQueue[StopReason | None] = SimpleQueue()  # Its put may be called in a signal handler.

    def __repr__(self) -> str:
        return f"<Stop: {self.why}>"

    def tell(self, why: StopReason | None) -> None:
        """Give a reason; None: the block has ended by itself."""
        self._reasons.put(why)

    def wait(self, timeout_s: float | None, is_hopeless: Callable[[], bool]) -> StopReason | None:
        """Return the first reason; the time is one, and without a limit ``is_hopeless`` is asked now and then."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            with suppress(Empty):
                self.why = self._reasons.get(timeout=min(ASK_EVERY_S, left_s))
                return self.why
            if timeout_s is None and _is_so(is_hopeless):
                self.why = StopReason.HOPELESS
                return self.why
        self.why = StopReason.TIME_IS_UP
        return self.why


def _is_so(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except Exception:  # noqa: BLE001  a bug there must not keep signals from being heard; it is logged
        _log.exception("Nobody knows whether waiting makes sense")
        return False


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
    end: Callable[[StopReason], None],
    *,
    timeout_s: float | None = None,
    is_hopeless: Callable[[], bool] = lambda: False,
) -> Iterator[Stop]:
    """While the block runs, call ``end`` at the first signal, or when the time is up; the block then has to end soon.

    Nothing is raised where the program just is when a signal comes: there it could be lost, or leave a lock in a wrong
    state. What the block cannot be kept from, like reading a file, is waited for; the second signal ends the process at
    once.

    Args:
        end: Called once at most, on another thread, with the reason, which the ``Stop`` has by then.
        timeout_s: Without it, ``is_hopeless`` is asked now and then, on that thread, too.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous: dict[int, Any] = {int(each): signal.getsignal(each) for each in numbers}
    stop = Stop()

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        stop.tell(StopReason.TERMINATED if number == signal.SIGTERM else StopReason.INTERRUPTED)

    def watch() -> None:
        why = stop.wait(timeout_s, is_hopeless)
        if why is not None:
            end(why)

    watching = threading.Thread(target=watch, name="stop-watch", daemon=True)
    watching.start()
    for each in numbers:
        signal.signal(each, interrupt)
    try:
        yield stop
    finally:
        stop.tell(None)
        watching.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


def within(timeout_s: float, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, or raise what it raises; after the time it goes on without anybody waiting for it.

    Raises:
        TimeoutError: it took longer.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    return done.result(timeout_s)
