"""Waiting for a condition, with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

POLL_S = 0.01


def wait_until(condition: Callable[[], Answer], timeout_s: float = 10.0, *, what: str = "") -> Answer:
    """Ask ``condition`` until it answers with something true, and return that answer.

    Args:
        condition: Asked every 10 ms; what it raises is raised.
        timeout_s: The deadline in seconds.
        what: What is waited for, for the error.

    Raises:
        TimeoutError: the deadline passed; names what was waited for and the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            waited_for = what or getattr(condition, "__qualname__", repr(condition))
            raise TimeoutError(f"Waited {timeout_s:g} s for {waited_for}; the last answer was {answer!r}.")
        time.sleep(POLL_S)
    return answer
