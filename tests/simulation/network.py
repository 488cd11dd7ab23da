"""The network between hosts: byte streams with delay that can be cut, held up and torn, and who listens where.

    Endpoint ══ pipe ══► Endpoint        bytes, then perhaps FIN; in order, each with a delay
             ◄══ pipe ══

It stands for TCP as the product uses it, and for :mod:`harmonicio.transport.tcp`, ``channel``, ``selectors``,
``select.poll`` and ``socket.socketpair``:

- Between two hosts that are parted nothing arrives; what was sent meanwhile arrives when they are joined again, unless
  an end has given up by then: after 20 s with bytes that were not confirmed (TCP_USER_TIMEOUT), or 25 s of silence
  (keep-alive). The other end hears nothing of that while they are parted, and a reset as soon as it sends again.
- A cut resets a connection, both ends at once or one later; of what was on its way, a part may still arrive.
- A process that dies leaves a FIN, or a reset if it had not read everything; a host that is lost leaves nothing.
- A stopped process is still confirmed to: its kernel takes bytes until the buffer is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.core.lease import Address
from simulation.loop import Host, Loop, Process, Task, check_alive, current, sleep

RECEIVE_SLICE_S = 0.05
BUFFER_BYTES = 256 * 1024
USER_TIMEOUT_S, KEEP_ALIVE_S = 20.0, 25.0
NEVER_ANSWERED_S = 1e9


class Network:
    """All hosts and what lies between them."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        #: How long bytes and requests are under way; the storm that came last counts.
        self.storms = [(0.0002, 0.002)]
        #: (from, to) of hosts between which nothing arrives, with how many faults want it so.
        self._parted: dict[tuple[str, str], int] = {}
        self.connections: dict[int, tuple[Endpoint, Endpoint]] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._next_port = 20_000
        self._next_connection = 0
        #: Who is told of hits: faults that had an effect.
        self.on_hit: Callable[[str], None] = lambda _: None

    def vanish(self, host: Host) -> None:
        """A host is without power: its ends of connections are gone, and nobody hears of it."""
        for ends in list(self.connections.values()):
            for endpoint in ends:
                if endpoint.host is host:
                    endpoint.fall_silent()

    def draw_delay_s(self) -> float:
        return self.loop.random.uniform(*self.storms[-1])

    # ── who reaches whom ─────────────────────────────────────────────────────────────────────────────────────────────

    def is_parted(self, source: Host, target: Host) -> bool:
        return source is not target and ((source.name, target.name) in self._parted or not target.is_up)

    def part(self, source: str, target: str) -> None:
        """Nothing from the one host reaches the other from now on; counted."""
        self._parted[source, target] = self._parted.get((source, target), 0) + 1
        for one, other in list(self.connections.values()):
            if {one.host.name, other.host.name} == {source, target}:
                one.gives_up_at(self.loop.now + KEEP_ALIVE_S)
                other.gives_up_at(self.loop.now + KEEP_ALIVE_S)

    def join(self, source: str, target: str) -> None:
        count = self._parted[source, target] - 1
        if count:
            self._parted[source, target] = count
            return
        del self._parted[source, target]
        for one, other in list(self.connections.values()):
            one.joined()
            other.joined()

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def draw_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def listen(self, process: Process, port: int) -> Listener:
        port = port or self.draw_port()
        key = (process.host.name, port)
        if key in self._listeners:
            raise Unavailable(f"Port {port} is taken.")
        listener = self._listeners[key] = Listener(self, process, port)
        process.on_death.append(listener.close)
        return listener

    def forget_listener(self, listener: Listener) -> None:
        self._listeners.pop((listener.process.host.name, listener.port), None)

    def dial(self, address: Address, timeout_s: float) -> Endpoint:
        """Connect from the current task's host; raises OSError."""
        process = check_alive()
        until = self.loop.now + timeout_s
        host = process.host
        while True:
            sleep(self.draw_delay_s())
            listener = self._listeners.get((address.host, address.port))
            target = listener.process.host if listener is not None else self.hosts.get(address.host)
            is_reached = target is not None and not (self.is_parted(host, target) or self.is_parted(target, host))
            if is_reached and listener is None:
                raise OSError("Connection refused")
            if is_reached and listener is not None:
                break
            if self.loop.now >= until:
                raise OSError("timed out")
            sleep(min(1.0, max(0.001, until - self.loop.now)))
        ours, theirs = self.connect(process, listener.process)
        ours.peer_name = str(address)
        theirs.peer_name = f"{host.name}:{self.draw_port()}"
        listener.arrived(theirs)
        sleep(self.draw_delay_s())
        return ours

    #: By name; the world enters them.
    hosts: dict[str, Host]

    def connect(self, process: Process, other: Process) -> tuple[Endpoint, Endpoint]:
        """Return the two ends of a new connection."""
        self._next_connection += 1
        number = self._next_connection
        one, two = Endpoint(self, process, number), Endpoint(self, other, number)
        one.other, two.other = two, one
        self.connections[number] = (one, two)
        return one, two


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
        raise NotImplementedError

    def is_writable(self) -> bool:
        return True


class Listener(Waitable):
    """A listening socket."""

    def __init__(self, network: Network, process: Process, port: int) -> None:
        super().__init__()
        self._network = network
        self.process = process
        self.port = port
        self._arrived: deque[Endpoint] = deque()

    def getsockname(self) -> tuple[str, int]:
        return self.process.host.name, self.port

    def arrived(self, endpoint: Endpoint) -> None:
        self._arrived.append(endpoint)
        self.changed()

    def accept(self) -> Endpoint | None:
        return self._arrived.popleft() if self._arrived else None

    def is_readable(self) -> bool:
        return bool(self._arrived)

    def close(self) -> None:
        self._network.forget_listener(self)
        for endpoint in self._arrived:
            endpoint.reset("Connection reset by peer")


class Endpoint(Waitable):
    """One end of a byte stream."""

    other: Endpoint

    def __init__(self, network: Network, process: Process, number: int) -> None:
        super().__init__()
        self._network = network
        self._loop = network.loop
        self.process = process
        self.host = process.host
        self.number = number
        self.peer_name = "?"
        self._arrived: deque[memoryview] = deque()
        self.arrived_bytes = 0
        #: Sent by this end and not arrived, in order; an empty one is the FIN.
        self._under_way: deque[bytes] = deque()
        self.under_way_bytes = 0
        self._last_arrival = 0.0
        self._is_held_up = False
        self.is_fin_sent = False
        self.has_fin = False
        self.is_closed = False
        self.is_silent = False
        self.trouble = ""
        self._gives_up: list[Any] | None = None
        process.on_death.append(self.close)

    def __repr__(self) -> str:
        return f"<Endpoint {self.number} of {self.process.name}: {self.trouble or 'open'}>"

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def room_bytes(self) -> int:
        return BUFFER_BYTES - self.under_way_bytes - self.other.arrived_bytes

    def is_writable(self) -> bool:
        return bool(self.trouble) or self.is_fin_sent or self.room_bytes() > 0

    def send(self, data: bytes) -> None:
        """Put bytes on their way; an empty text is the FIN."""
        self._under_way.append(data)
        self.under_way_bytes += len(data)
        self._last_arrival = max(self._last_arrival, self._loop.now + self._network.draw_delay_s())
        self._loop.at(self._last_arrival, self._arrive)
        if self._is_cut_off:
            self.gives_up_at(self._loop.now + USER_TIMEOUT_S)

    @property
    def _is_cut_off(self) -> bool:
        """Whether nothing is confirmed to this end."""
        network = self._network
        return (
            self.other.is_silent
            or network.is_parted(self.host, self.other.host)
            or network.is_parted(self.other.host, self.host)
        )

    def _arrive(self) -> None:
        if not self._under_way or self.trouble:
            return
        if self._network.is_parted(self.host, self.other.host):
            self._is_held_up = True
            self.gives_up_at(self._loop.now + USER_TIMEOUT_S)
            return
        self._arrive_now()

    def _arrive_now(self) -> None:
        data = self._under_way.popleft()
        self.under_way_bytes -= len(data)
        if self.other.is_closed or self.other.trouble:
            self._loop.after(self._network.draw_delay_s(), self._answered_by_reset)
            return
        if data:
            self.other.take(data)
        else:
            self.other.has_fin = True
        self.other.changed()

    def _answered_by_reset(self) -> None:
        is_host_back = self.other.is_silent and self.other.process.is_dead and self.other.host.is_up
        if (not self.other.is_silent or is_host_back) and not self._network.is_parted(self.other.host, self.host):
            self.reset("Connection reset by peer")

    def take(self, data: bytes) -> None:
        self._arrived.append(memoryview(data))
        self.arrived_bytes += len(data)

    def joined(self) -> None:
        """The hosts may reach each other again: what was held up arrives, if anybody still wants it."""
        one_way = self._network.is_parted(self.host, self.other.host)
        if not self._is_cut_off and self._gives_up is not None:
            self._loop.cancel(self._gives_up)
            self._gives_up = None
        if self._is_held_up and not one_way:
            self._is_held_up = False
            for _ in range(len(self._under_way)):
                self._last_arrival = max(self._last_arrival, self._loop.now + self._network.draw_delay_s())
                self._loop.at(self._last_arrival, self._arrive)

    def gives_up_at(self, time_s: float) -> None:
        if self._gives_up is None and not self.trouble and not self.is_closed:
            self._gives_up = self._loop.at(time_s, self._give_up)

    def _give_up(self) -> None:
        self._gives_up = None
        if self._is_cut_off:
            self._network.on_hit("a connection timed out by itself")
            self.reset("Connection timed out")

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, trouble: str) -> None:
        """This end is broken: what it has sent and what it has not read is lost."""
        if self.trouble or self.is_closed:
            return
        self.trouble = trouble
        self._under_way.clear()
        self.under_way_bytes = 0
        self._arrived.clear()
        self.arrived_bytes = 0
        self._forget_if_over()
        self.changed()

    def tear(self) -> None:
        """Let a part of what is on its way from here still arrive, perhaps cut in the middle of a frame."""
        if self._under_way and self._loop.random.random() < 0.7:
            whole = self._loop.random.randrange(len(self._under_way))
            for _ in range(whole):
                self._arrive_now()
            data = self._under_way[0] if self._under_way else b""
            if len(data) > 1:
                self._network.on_hit("a frame was torn")
                self.other.take(data[: self._loop.random.randrange(1, len(data))])
                self.other.changed()
        self._under_way.clear()
        self.under_way_bytes = 0

    def shutdown(self) -> None:
        """No more is sent, and whoever reads here sees the end."""
        self.finish_sending()
        self.has_fin = True
        self.changed()

    def finish_sending(self) -> None:
        if not self.is_fin_sent and not self.trouble and not self.is_closed:
            self.is_fin_sent = True
            self.send(b"")

    def close(self) -> None:
        """Give it back: with bytes that nobody has read, that is a reset for the other end."""
        if self.is_closed:
            return
        was_unread = self.arrived_bytes > 0
        if not was_unread:
            self.finish_sending()
        self.is_closed = True
        self._arrived.clear()
        self.arrived_bytes = 0
        if was_unread and not self.trouble:
            self._loop.after(self._network.draw_delay_s(), self._reset_other)
        self._forget_if_over()
        self.changed()

    def _reset_other(self) -> None:
        if not self._network.is_parted(self.host, self.other.host):
            self.other.reset("Connection reset by peer")

    def fall_silent(self) -> None:
        """This end is gone, and the other one hears nothing of it until it gives up by itself."""
        if self.is_closed or self.trouble:
            return
        self._under_way.clear()
        self.under_way_bytes = 0
        self.is_silent = True
        self.other.gives_up_at(self._loop.now + KEEP_ALIVE_S)
        self.reset("No route to host")

    def _forget_if_over(self) -> None:
        if (self.is_closed or self.trouble) and (self.other.is_closed or self.other.trouble):
            self._network.connections.pop(self.number, None)

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_readable(self) -> bool:
        return self.arrived_bytes > 0 or self.has_fin or bool(self.trouble)

    def receive(self, buffer: memoryview) -> int | None:
        """Fill the buffer with what is here: 0 at the end, None when nothing is here; raises OSError."""
        if not self._arrived:
            if self.trouble:
                raise OSError(self.trouble)
            return 0 if self.has_fin else None
        filled = 0
        while self._arrived and filled < len(buffer):
            piece = self._arrived[0]
            count = min(len(piece), len(buffer) - filled)
            buffer[filled : filled + count] = piece[:count]
            filled += count
            if count == len(piece):
                self._arrived.popleft()
            else:
                self._arrived[0] = piece[count:]
        self.arrived_bytes -= filled
        if self.other.waiting or self.other.selectors:
            self.other.changed()  # There is room again.
        return filled


class Channel:
    """:class:`harmonicio.transport.channel.Channel`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.peer = endpoint.peer_name
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Channel to {self.peer} over {self._endpoint!r}>"

    def fileno(self) -> Endpoint:
        if self.is_closed:
            raise ValueError("closed")
        return self._endpoint

    @property
    def has_bytes_waiting(self) -> bool:
        return self._endpoint.is_readable()

    def receive_into(self, buffer: memoryview) -> int | None:
        check_alive()
        if not self._endpoint.is_readable():
            self._endpoint.wait(RECEIVE_SLICE_S)
        return self.try_receive(buffer)

    def receive_exactly(self, buffer: memoryview, *, on_progress: Callable[[int], None] | None = None) -> int:
        filled, size = 0, len(buffer)
        loop = current().process.loop
        judged_at, judged = loop.now, 0
        while filled < size:
            count = self.receive_into(buffer[filled:])
            if count == 0:
                break
            filled += count or 0
            if on_progress is not None and count:
                on_progress(filled)
            if loop.now - judged_at > 30.0:
                if filled - judged < 64_000 * 30:
                    raise ConnectionEnded(f"The transfer with {self.peer} was too slow and was cut.")
                judged_at, judged = loop.now, filled
        return filled

    def send_all(self, buffers: Sequence[Any]) -> None:
        data = b"".join(buffers)
        loop = current().process.loop
        begun_at, at = loop.now, 0
        while at < len(data):
            sent = self._send(data[at:] if at else data)
            at += sent
            if not sent:
                self._endpoint.wait(5.0)
                if loop.now - begun_at > 30.0:
                    raise ConnectionEnded(f"The transfer with {self.peer} was too slow and was cut.")

    def try_send(self, buffers: Sequence[memoryview]) -> int:
        return self._send(b"".join(buffers))

    def _send(self, data: bytes) -> int:
        check_alive()
        endpoint = self._endpoint
        if endpoint.trouble or endpoint.is_fin_sent or endpoint.is_closed:
            raise ConnectionEnded(f"The connection to {self.peer} broke: {endpoint.trouble or 'Broken pipe'}.")
        count = min(endpoint.room_bytes(), len(data))
        if count > 0:
            endpoint.send(data[:count] if count < len(data) else data)
            return count
        return 0

    def try_receive(self, buffer: memoryview) -> int | None:
        check_alive()
        try:
            return self._endpoint.receive(buffer)
        except OSError as error:
            raise ConnectionEnded(f"The connection to {self.peer} broke: {error}.") from None

    def shutdown(self) -> None:
        check_alive()
        if not self.is_closed:
            self._endpoint.shutdown()

    def finish_sending(self) -> None:
        check_alive()
        self._endpoint.finish_sending()

    def discard_briefly(self) -> None:
        scrap = memoryview(bytearray(64 * 1024))
        until = current().process.loop.now + 0.25
        try:
            while current().process.loop.now < until and self.receive_into(scrap) != 0:
                pass
        except ConnectionEnded:
            return

    def close(self) -> None:
        check_alive()
        self.is_closed = True
        self._endpoint.close()


class Tcp:
    """:mod:`harmonicio.transport.tcp`."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def dial(
        self, address: Address, *, timeout_s: float, slow_after_s: float = 30.0, is_wanted: Callable[[], bool] = bool
    ) -> Channel:
        try:
            return Channel(self._network.dial(address, timeout_s))
        except OSError as error:
            raise ConnectionEnded(f"No data connection to {address}: {error}.") from None

    def listen(self, host: str, port: int, *, device: str = "") -> Listener:
        return self._network.listen(check_alive(), port)

    @staticmethod
    def accept(listener: Listener, *, slow_after_s: float = 30.0) -> Channel | None:
        check_alive()
        endpoint = listener.accept()
        return None if endpoint is None else Channel(endpoint)


# ── selectors, poll and socketpair ───────────────────────────────────────────────────────────────────────────────────

EVENT_READ, EVENT_WRITE = 1, 2


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
