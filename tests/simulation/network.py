"""The network between hosts: byte streams with delay that can be cut, held up and torn, and who listens where.

    Endpoint ══ pipe ══► Endpoint        bytes, then perhaps FIN; in order, each with a delay
             ◄══ pipe ══

It stands for TCP as the product uses it; :mod:`simulation.channel` is how the product gets at it:

- Between two hosts that are parted nothing arrives; what was sent meanwhile arrives when they are joined again, unless
  an end has given up by then: after 20 s with bytes that were not confirmed (TCP_USER_TIMEOUT), or 25 s of silence
  (keep-alive). The other end hears nothing of that while they are parted, and a reset as soon as it sends again.
- A cut resets a connection, both ends at once or one later; of what was on its way, a part may still arrive.
- A process that dies leaves a FIN, or a reset if it had not read everything; a host that is lost leaves nothing.
- A stopped process is still confirmed to: its kernel takes bytes until the buffer is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from harmonicio.core.errors import Unavailable
from harmonicio.core.lease import Address
from simulation.loop import Host, Loop, Process, check_alive, sleep
from simulation.readiness import Waitable

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
