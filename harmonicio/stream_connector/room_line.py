"""Threads that wait for room: first come, first served, so that a large message is not overtaken for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.lanes import Parcel
from harmonicio.stream_connector.pump import Pump


class RoomLine:
    """One line; all is called with the connector's lock held.

    Args:
        pump: Where they wait, serving the sockets meanwhile.
        is_over: Whether waiting makes no sense any more.

    Attributes:
        waiting: How many wait.
    """

    def __init__(self, pump: Pump, is_over: Callable[[], bool]) -> None:
        self._pump = pump
        self._is_over = is_over
        self._tickets: deque[object] = deque()
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<RoomLine of {len(self._tickets)}>"

    def wait_for_budget(self, dispatch: Dispatch, parcel: Parcel) -> None:
        """Wait until the byte budget admits this parcel; more will follow where its source must wait."""
        parcel.is_in_loop = True
        self.wait(lambda: dispatch.has_room(parcel.cost_bytes))

    def wait(self, has_room: Callable[[], bool]) -> None:
        """Return when there is room and nobody came before, or when waiting makes no sense any more."""
        ticket = object()
        self._tickets.append(ticket)
        self.waiting += 1
        try:
            self._pump.wait(lambda: self._is_over() or (self._tickets[0] is ticket and has_room()))
        finally:
            self._tickets.remove(ticket)
            self.waiting -= 1
            self._pump.tell_waiters()
