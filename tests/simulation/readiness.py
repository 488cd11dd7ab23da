"""Waiting for what becomes readable or writable: ``selectors``, ``select.poll`` and ``socket.socketpair``."""

from __future__ import annotations

from typing import Any

from simulation.loop import Task, check_alive, current

EVENT_READ, EVENT_WRITE = 1, 2


class Waitable:
    """Something that tasks and selectors wait for."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Task, int]] = []
        self.selectors: list[Selector] = []

    def changed(self) -> None:
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            for task, number in waiting:
                task.wake(number)
        for selector in self.selectors:
            selector.poke()

    def wait(self, timeout_s: float | None) -> bool:
        task = current()
        number = task.ready_to_park()
        self.waiting.append((task, number))
        return task.park(number, timeout_s)

    def fileno(self) -> Waitable:
        """Itself: that is what selectors of ours know it by."""
        return self

    def is_readable(self) -> bool:
        """There is nothing to read unless a class says what."""
        return False

    def is_writable(self) -> bool:
        return True


class Key:
    """``selectors.SelectorKey``."""

    __slots__ = ("data", "events", "fileobj")

    def __init__(self, fileobj: Any, events: int, data: Any) -> None:
        self.fileobj, self.events, self.data = fileobj, events, data


class Selector:
    """``selectors.DefaultSelector``."""

    def __init__(self) -> None:
        self._keys: dict[Any, Key] = {}
        self._parked: tuple[Task, int] | None = None

    def fileno(self) -> Selector:
        return self

    def register(self, fileobj: Any, events: int, data: Any = None) -> None:
        if fileobj in self._keys:
            raise KeyError("registered already")
        self._keys[fileobj] = Key(fileobj, events, data)
        fileobj.selectors.append(self)
        self.poke()

    def modify(self, fileobj: Any, events: int, data: Any = None) -> None:
        self._keys[fileobj].events = events
        self._keys[fileobj].data = data

    def unregister(self, fileobj: Any) -> None:
        del self._keys[fileobj]
        fileobj.selectors.remove(self)

    def poke(self) -> None:
        if self._parked is not None:
            (task, number), self._parked = self._parked, None
            task.wake(number)

    def select(self, timeout: float | None = None) -> list[tuple[Key, int]]:
        task = current()
        check_alive()
        loop = task.process.loop
        until = None if timeout is None else loop.now + timeout
        while True:
            ready = self._ready()
            if ready or (until is not None and loop.now >= until):
                return ready
            number = task.ready_to_park()
            self._parked = (task, number)
            task.park(number, None if until is None else until - loop.now)
            self._parked = None

    def _ready(self) -> list[tuple[Key, int]]:
        ready = []
        for key in self._keys.values():
            mask = EVENT_READ if key.events & EVENT_READ and key.fileobj.is_readable() else 0
            if key.events & EVENT_WRITE and key.fileobj.is_writable():
                mask |= EVENT_WRITE
            if mask:
                ready.append((key, mask))
        return ready

    def close(self) -> None:
        for fileobj in list(self._keys):
            self.unregister(fileobj)


class SelectorsModule:
    """``selectors``."""

    DefaultSelector = EpollSelector = Selector
    EVENT_READ, EVENT_WRITE = EVENT_READ, EVENT_WRITE


class Poll:
    """``select.poll()``, for one descriptor."""

    def register(self, fileobj: Any, _: int = 0) -> None:
        self._fileobj = fileobj

    def poll(self, timeout_ms: float | None = None) -> list[Any]:
        check_alive()
        while not self._fileobj.is_readable():
            if not self._fileobj.wait(None if timeout_ms is None else timeout_ms / 1000) and timeout_ms is not None:
                break
        return [self._fileobj] if self._fileobj.is_readable() else []


class SelectModule:
    """``select``."""

    POLLIN, POLLOUT = 1, 4
    poll = Poll


class WakeSocket(Waitable):
    """One end of ``socket.socketpair()``, which the product uses to wake its own selectors."""

    def __init__(self) -> None:
        super().__init__()
        self.other: WakeSocket = self
        self._bytes = 0

    def setblocking(self, _: bool) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.other._bytes += len(data)
        self.other.changed()

    def recv(self, _: int) -> bytes:
        if not self._bytes:
            raise BlockingIOError
        count, self._bytes = self._bytes, 0
        return bytes(count)

    def is_readable(self) -> bool:
        return self._bytes > 0

    def close(self) -> None:
        pass


class SocketModule:
    """``socket``."""

    @staticmethod
    def socketpair() -> tuple[WakeSocket, WakeSocket]:
        one, two = WakeSocket(), WakeSocket()
        one.other, two.other = two, one
        return one, two

    @staticmethod
    def gethostname() -> str:
        return current().process.host.name
