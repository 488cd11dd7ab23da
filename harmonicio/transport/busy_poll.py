"""Waiting without sleeping, where that pays: adaptive busy polling.

Who sleeps until bytes come must be woken, and a processor that has slept works slowly for a while. Where one message
at a time is under way that takes more than all else, and with a window of small ones more than the messages. So a
reader that has had what it waited for a moment later, time after time, looks for the next one again and again before it
sleeps.

      waited ── a moment ──► once ── again ──► twice ── again ──► polls ──┐
                  ▲                                                 ▲     │ a moment, or it was there
                  └───── nothing, or longer ────────────────────────┴─────┘
                         (before it polls also: it was there)

Where messages come as fast as they are read, they are there at the first look, so nobody begins to poll there; and who
does goes on: else he would sleep for a message whenever he had just been in time. Nobody polls where there are more
processes than processors: the kernel counts how often others had their turn meanwhile. It does likewise itself, for
virtual machines that halt (halt polling).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

#: A moment: longer than the first, which is the time to see that something is there; shorter than the second.
AT_ONCE_S, SOON_S = 10e-6, 500e-6
#: After so many moments one behind the other, the next one is expected.
MOMENTS = 3
#: Others want the processor when they got it during so many more waits than not …
TOO_OFTEN = 32
#: … and then so many messages pass before the next try; four times as many, up to the most, …
LEFT_ALONE, LEFT_ALONE_MOST = 256, 4_096
#: … each time that fewer waits than these went well.
WELL = 64
#: Whoever is away for so long was stopped: by a limit of processor time, or by who has the interpreter.
STOPPED_S = 0.004
#: However slow the clock, no more looks than this.
_MOST_LOOKS = 2_000


class BusyPoll:
    """Whether one reader polls; its waits are told to it."""

    __slots__ = ("_is_disturbed", "_left_alone", "_moments", "_strain")

    def __init__(self) -> None:
        self._moments = 0
        self._strain = 0
        self._is_disturbed = False
        self._left_alone = LEFT_ALONE

    def __repr__(self) -> str:
        return f"<BusyPoll: {'polls' if self.is_due else 'sleeps'}>"

    @property
    def is_due(self) -> bool:
        """Whether what comes next is expected within a moment."""
        return self._moments >= MOMENTS

    def waited(self, seconds: float) -> None:
        """What was waited for has come after so long; infinity: it has not."""
        self._strain = self._strain + 1 if self._is_disturbed else max(0, self._strain - 1)
        self._is_disturbed = False
        if self._strain >= TOO_OFTEN:
            self._moments, self._strain = -self._left_alone, 0
            self._left_alone = min(4 * self._left_alone, LEFT_ALONE_MOST)
        elif AT_ONCE_S < seconds < SOON_S:
            self._moments += 1
            if self._moments == MOMENTS + WELL:
                self._left_alone = LEFT_ALONE
        elif seconds >= SOON_S or not self.is_due:
            self._moments = min(0, self._moments)

    def poll(self, look: Callable[[], Found | None], until: float | None = None) -> Found | None:
        """Return what a look finds within a moment, None when there is nothing. Others go first.

        Args:
            until: On the monotonic clock, in place of a moment from now.
        """
        found = look()
        if found is not None:
            return found
        before = now = time.monotonic()
        others = _turns_of_others()
        until = now + SOON_S if until is None else until
        for _ in range(_MOST_LOOKS):
            found = look()
            before, now = now, time.monotonic()
            if found is not None or now > until:
                break
            os.sched_yield()
        if _turns_of_others() != others:
            self._is_disturbed = True
        if now - before > STOPPED_S:
            self._strain, self._left_alone = 2 * TOO_OFTEN, 4 * LEFT_ALONE
        return found


def _turns_of_others() -> int:
    """Return how often this thread had to leave the processor to another one."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
