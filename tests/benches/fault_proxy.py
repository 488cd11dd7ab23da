"""A small TCP proxy that does to connections what networks do to them.

      client ──UP──► [ read ── faults ── queue, due times ── write ] ──► target
             ◄─DOWN─ [ the same, with faults of its own            ] ◄──

What each direction suffers is set with :meth:`FaultProxy.impair`, at any time, for the connections that are open and
those that come; :meth:`FaultProxy.heal` ends it. :meth:`FaultProxy.cut` and :meth:`FaultProxy.reset` end what is open.
One thread serves all connections of a proxy; bytes stay in order whatever is done to them.

What it cannot do is lose packets: the kernels on both sides see a healthy TCP. Frozen or swallowed bytes look to a
program like a peer that is gone without a FIN, which is what programs have to live with.
"""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from harmonicio.core.lease import Address

READ_BYTES = 64 * 1024
#: What a direction holds at most; beyond it nothing is read, so that a slow target slows its source.
QUEUE_BYTES = 1024**2
#: Of a throttled direction as much is written at once as is due in this time, or one byte.
BURST_S = 0.02
#: How long what comes after a FIN of ours is still read: unread bytes would make it a reset.
LINGER_S = 1.0
LOOK_EVERY_S = 0.5
_READ, _WRITE = select.POLLIN, select.POLLOUT


class Way(Enum):
    """A direction: from the one who dialled to the target, or back."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Faults:
    """What one direction suffers. Byte numbers count from the beginning of each connection.

    Attributes:
        is_frozen: Nothing moves, not even the end of the stream; kernels still take what fits into their buffers.
        delay_s, jitter_s: Each piece comes so much later, and by chance up to the jitter more.
        bytes_per_s: No faster than that; None does not slow.
        swallow_from: This byte and all that follow are read and never arrive; 0 swallows everything.
        flip_at: One bit of this byte arrives flipped; of the first connection that comes so far.
        reset_at: The bytes before arrive, and then both sides see a reset; the first connection that comes so far.
    """

    is_frozen: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    swallow_from: int | None = None
    flip_at: int | None = None
    reset_at: int | None = None


HEALTHY = Faults()
FROZEN = Faults(is_frozen=True)
SWALLOWED = Faults(swallow_from=0)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        self.way = way
        self.source = source
        self.sink = sink
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.queued_bytes = 0
        self.read_bytes = 0
        self.write_at = 0.0
        self.is_ended = False
        self.has_finished = False


class _Connection:
    """A client, its target and the two ways between them."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.sockets = (client, target)
        self.pipes = (_Pipe(Way.UP, client, target), _Pipe(Way.DOWN, target, client))
        #: When it is closed, once both sides have got their FIN; infinity before.
        self.closes_at = float("inf")
        self.is_reset_when_empty = False


class FaultProxy:
    """Listens in place of a target; a context manager.

    Args:
        target: Where connections go on to; may be changed at any time.
        seed: Of the jitter.

    Attributes:
        is_refusing: New connections are reset at once.
        accepted: How many connections came.
        hits: How often each fault of one moment (cut, reset, flip, reset_at) was done to a connection.
    """

    def __init__(self, target: Address, *, host: str = "127.0.0.1", port: int = 0, seed: int = 0) -> None:
        self.target = target
        self.is_refusing = False
        self.accepted = 0
        self.hits: dict[str, int] = dict.fromkeys(("cut", "reset", "flip", "reset_at"), 0)
        self.passed_bytes = dict.fromkeys(Way, 0)
        self._faults = dict.fromkeys(Way, HEALTHY)
        self._random = random.Random(seed)
        self._listener = socket.create_server((host, port), backlog=1024)
        self._listener.setblocking(False)
        self.address = Address(*self._listener.getsockname()[:2])
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._connections: list[_Connection] = []
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"fault-proxy-{self.address.port}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.address} to {self.target}: {len(self._connections)} connections, {self._faults}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    # ── what a test orders; returns when it is done ──────────────────────────────────────────────────────────────────

    def impair(self, faults: Faults, *ways: Way) -> None:
        """Have these ways, or both, suffer this from now on and nothing else."""
        self._order(lambda: self._faults.update(dict.fromkeys(ways or Way, faults)))

    def heal(self) -> None:
        """End all that is suffered; bytes that were swallowed stay lost."""
        self.impair(HEALTHY)

    def cut(self) -> int:
        """End every open connection with FIN on both sides, after what is queued is dropped; return how many."""
        return self._end_all("cut", self._finish)

    def reset(self) -> int:
        """End every open connection with RST on both sides; return how many."""
        return self._end_all("reset", self._reset)

    def close(self) -> None:
        """End everything."""
        self._is_closing = True
        self._wake_writer.send(b"\0")
        self._thread.join()
        for connection in list(self._connections):
            self._close(connection)
        for sock in (self._listener, self._wake_reader, self._wake_writer):
            sock.close()

    def _end_all(self, name: str, end: Callable[[_Connection], None]) -> int:
        ended: list[_Connection] = []

        def act() -> None:
            for connection in [each for each in self._connections if each.closes_at == float("inf")]:
                end(connection)
                ended.append(connection)
            self.hits[name] += len(ended)

        self._order(act)
        return len(ended)

    def _order(self, act: Callable[[], None]) -> None:
        is_done = threading.Event()
        self._orders.append((act, is_done))
        self._wake_writer.send(b"\0")
        while not is_done.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError(f"{self!r} has ended.")

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            now = time.monotonic()
            poll, wait_s = self._wanted(now)
            ready = dict(poll.poll(wait_s * 1000))
            now = time.monotonic()
            if self._wake_reader.fileno() in ready:
                with suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
            while self._orders:
                act, is_done = self._orders.popleft()
                act()
                is_done.set()
            if self._listener.fileno() in ready:
                self._accept()
            for connection in list(self._connections):
                self._serve(connection, ready, now)

    def _wanted(self, now: float) -> tuple[select.poll, float]:
        """Return what is to be waited for, and how long."""
        masks = {self._wake_reader.fileno(): _READ, self._listener.fileno(): _READ}
        due_at = now + LOOK_EVERY_S
        for connection in self._connections:
            due_at = min(due_at, connection.closes_at)
            for pipe in connection.pipes:
                faults = self._faults[pipe.way]
                if faults.is_frozen and connection.closes_at == float("inf"):
                    continue
                if not pipe.is_ended and pipe.queued_bytes < QUEUE_BYTES:
                    masks[pipe.source.fileno()] = masks.get(pipe.source.fileno(), 0) | _READ
                if pipe.queue and (at := max(pipe.queue[0][0], pipe.write_at)) > now:
                    due_at = min(due_at, at)
                elif pipe.queue:
                    masks[pipe.sink.fileno()] = masks.get(pipe.sink.fileno(), 0) | _WRITE
        poll = select.poll()
        for number, mask in masks.items():
            poll.register(number, mask)
        return poll, max(0.0, due_at - now) + 0.0005

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                if self.is_refusing:
                    _close_with_reset(client)
                    continue
                family = socket.AF_INET6 if ":" in self.target.host else socket.AF_INET
                target = socket.socket(family, socket.SOCK_STREAM)
                for sock in (client, target):
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                code = target.connect_ex((self.target.host, self.target.port))
                connection = _Connection(client, target)
                self._connections.append(connection)
                if code not in (0, errno.EINPROGRESS):  # Else writing waits for it, and reading tells its failure.
                    self._reset(connection)

    def _serve(self, connection: _Connection, ready: dict[int, int], now: float) -> None:
        if now >= connection.closes_at:
            self._close(connection)
            return
        try:
            for pipe in connection.pipes:
                if self._faults[pipe.way].is_frozen and connection.closes_at == float("inf"):
                    continue
                if not pipe.is_ended and pipe.queued_bytes < QUEUE_BYTES and ready.get(pipe.source.fileno(), 0):
                    self._read(connection, pipe, now)
                if pipe.queue and ready.get(pipe.sink.fileno(), 0) & ~_READ:
                    self._write(pipe, now)
                if pipe.is_ended and not pipe.queue and not pipe.has_finished:
                    pipe.has_finished = True
                    pipe.sink.shutdown(socket.SHUT_WR)
        except OSError:  # One side was reset, or never answered: so is the other.
            self._reset(connection)
            return
        if connection.is_reset_when_empty and not any(pipe.queue for pipe in connection.pipes):
            self._reset(connection)
        elif all(pipe.has_finished for pipe in connection.pipes):
            self._close(connection)

    def _read(self, connection: _Connection, pipe: _Pipe, now: float) -> None:
        try:
            piece = pipe.source.recv(READ_BYTES)
        except BlockingIOError:
            return
        if connection.closes_at != float("inf") or connection.is_reset_when_empty:
            pipe.is_ended |= not piece
            return  # Nobody gets it any more.
        if not piece:
            pipe.is_ended = True
            return
        begin, pipe.read_bytes = pipe.read_bytes, pipe.read_bytes + len(piece)
        arrives = self._damaged(connection, pipe.way, piece, begin)
        if arrives:
            faults = self._faults[pipe.way]
            due_at = now + faults.delay_s + self._random.random() * faults.jitter_s
            if pipe.queue:
                due_at = max(due_at, pipe.queue[-1][0])  # In order, as TCP has it.
            pipe.queue.append((due_at, memoryview(arrives)))
            pipe.queued_bytes += len(arrives)

    def _damaged(self, connection: _Connection, way: Way, piece: bytes, begin: int) -> bytes:
        """Return what arrives of the piece that begins with this byte of the connection."""
        faults, end = self._faults[way], begin + len(piece)
        if faults.flip_at is not None and begin <= faults.flip_at < end:
            flipped = bytearray(piece)
            flipped[faults.flip_at - begin] ^= 1
            piece = bytes(flipped)
            self.hits["flip"] += 1
            self._faults[way] = replace(self._faults[way], flip_at=None)
        if faults.reset_at is not None and begin <= faults.reset_at < end:
            piece = piece[: faults.reset_at - begin]
            connection.is_reset_when_empty = True
            self.hits["reset_at"] += 1
            self._faults[way] = replace(self._faults[way], reset_at=None)
        if faults.swallow_from is not None:
            piece = piece[: max(0, faults.swallow_from - begin)]
        return piece

    def _write(self, pipe: _Pipe, now: float) -> None:
        rate = self._faults[pipe.way].bytes_per_s
        while pipe.queue and pipe.queue[0][0] <= now and pipe.write_at <= now:
            due_at, piece = pipe.queue.popleft()
            part = piece if rate is None else piece[: max(1, int(rate * BURST_S))]
            try:
                count = pipe.sink.send(part)
            except BlockingIOError:
                count = 0
            pipe.queued_bytes -= count
            self.passed_bytes[pipe.way] += count
            if rate is not None:
                pipe.write_at = now + count / rate
            if count < len(piece):
                pipe.queue.appendleft((due_at, piece[count:]))
            if count < len(part):
                return

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, connection: _Connection) -> None:
        connection.closes_at = time.monotonic() + LINGER_S
        for pipe in connection.pipes:
            pipe.queue.clear()
            pipe.queued_bytes = 0
            pipe.has_finished = True
        for sock in connection.sockets:
            with suppress(OSError):  # It is gone already.
                sock.shutdown(socket.SHUT_WR)

    def _reset(self, connection: _Connection) -> None:
        for sock in connection.sockets:
            _close_with_reset(sock)
        self._connections.remove(connection)

    def _close(self, connection: _Connection) -> None:
        for sock in connection.sockets:
            sock.close()
        self._connections.remove(connection)


def _close_with_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
