"""What runs in the source's own process: connectors that send to engines or to the backlog, timed from within."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

from harmonicio.control import open_file_limit
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseList, LeaseRequest
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.crowd import Crowd
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION
from micro.machine import cpu_s, peak_memory_mb, threads_of
from micro.raw_tcp import WARM_UP
from micro.sizes import payload_of

#: Longer than any run: what is measured peer to peer does not go to the backlog.
_NEVER_S = 600.0
_ROOM_BYTES = 256 * 2**20
_READY_WITHIN_S = 120.0
#: The least that a message takes of a byte budget, so that the smallest have a window, too.
_LEAST_BYTES = 512
#: … and what the metadata of one takes beside its payload.
_METADATA_BYTES = 30
_NUMBER = struct.Struct("!Q")
_CROWD = "crowd"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a source sends to, and the processes whose CPU time counts.

    Attributes:
        options: Further arguments of the connector, such as those that choose a transport.
    """

    stream: str
    master: str
    token: str
    engine_pids: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=lambda: {"arena_max_bytes": 0})  # all goes by TCP

    def connector(self, byte_budget_bytes: int, patience_s: float = _NEVER_S) -> StreamConnector:
        """Return a connector to it."""
        return StreamConnector(
            self.stream,
            master=self.master,
            token=self.token,
            byte_budget_bytes=byte_budget_bytes,
            patience_s=patience_s,
            **self.options,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What one run reached.

    Attributes:
        cpu_s: CPU time of this process and the engines.
        source_cpu_s: That of this process alone.
        peak_memory_mb: The most that this process has had resident so far.
        threads: Threads of this process.
    """

    messages_per_s: float
    cpu_s: float
    source_cpu_s: float
    peak_memory_mb: float
    threads: int


def peer_to_peer(target: Target, size_bytes: int, messages: int, window: int, payloads: int = 1) -> Run:
    """Send messages from memory to engines, each with metadata of its own, and wait until all are handled.

    Args:
        payloads: So many are sent in turn, each in memory of its own: one alone stays in the processor's.
    """
    sent = [payload_of(size_bytes) for _ in range(payloads)]
    with target.connector(window * max(size_bytes + _METADATA_BYTES, _LEAST_BYTES)) as connector:
        return _timed(
            target,
            connector,
            messages,
            lambda number: connector.send(sent[number % payloads], metadata=_metadata(number)),
        )


def _metadata(number: int) -> dict[str, object]:
    return {"well": "B03", "site": number}


def in_place(target: Target, size_bytes: int, messages: int, window: int) -> Run:
    """Send messages that are made where engines of this host find them; of each as much is written as tells it."""
    with target.connector(window * max(size_bytes, _LEAST_BYTES)) as connector:

        def send(number: int) -> None:
            allocation = connector.allocate(size_bytes)
            _NUMBER.pack_into(allocation.view, 0, number)
            connector.send(allocation)

        return _timed(target, connector, messages, send)


def new_payloads(target: Target, size_bytes: int, messages: int, window: int) -> Run:
    """As :func:`peer_to_peer`, with memory of its own for each message, as an instrument's are."""
    with target.connector(window * size_bytes) as connector:
        return _timed(target, connector, messages, lambda number: connector.send(payload_of(size_bytes)))


def from_files(target: Target, files: Sequence[Path], messages: int, window: int) -> Run:
    """Send files, which are in the page cache, in turn."""
    size_bytes = files[0].stat().st_size
    with target.connector(window * size_bytes) as connector:
        return _timed(target, connector, messages, lambda number: connector.send_file(files[number % len(files)]))


def _timed(target: Target, connector: StreamConnector, messages: int, send: Callable[[int], object]) -> Run:
    for number in range(warm_up(target)):
        send(number)
    connector.flush("processed")
    own_before, engines_before, begun = time.process_time(), _engines_cpu_s(target), time.perf_counter()
    for number in range(messages):
        send(number)
    connector.flush("processed")
    took_s = time.perf_counter() - begun
    own_s, engines_s = time.process_time() - own_before, _engines_cpu_s(target) - engines_before
    return Run(messages / took_s, own_s + engines_s, own_s, peak_memory_mb(os.getpid()), threads_of(os.getpid()))


def warm_up(target: Target) -> int:
    """Return how many messages pass before the time begins."""
    return WARM_UP * len(target.engine_pids)


def _engines_cpu_s(target: Target) -> float:
    return sum(map(cpu_s, target.engine_pids))


def latencies_s(target: Target, size_bytes: int, messages: int) -> list[float]:
    """Return the times from sending to the result, with one message in flight."""
    payload = payload_of(size_bytes)
    taken = []
    with target.connector(_ROOM_BYTES) as connector:
        for _ in range(WARM_UP):
            connector.send(payload).result()
        for _ in range(messages):
            begun = time.perf_counter()
            connector.send(payload).result()
            taken.append(time.perf_counter() - begun)
    return taken


def into_backlog(target: Target, size_bytes: int, messages: int) -> float:
    """Send messages to a stream without engines; return how many the master has stored in a second."""
    payload = payload_of(size_bytes)
    with target.connector(_ROOM_BYTES, patience_s=0.0) as connector:
        connector.send(payload)
        connector.flush("safe")
        begun = time.perf_counter()
        for number in range(messages):
            connector.send(payload, metadata=_metadata(number))
        connector.flush("safe")
        return messages / (time.perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class Shares:
    """What several connectors of this process reached at the same time: messages of each, within ``took_s``."""

    messages: tuple[int, ...]
    took_s: float
    threads: int


def at_once(
    targets: Sequence[Target], size_bytes: int, window: int, seconds: float, all_ready: Barrier | None = None
) -> Shares:
    """Send with a connector to each target, from a thread of its own, as soon as all processes are ready."""
    payload = payload_of(size_bytes)
    sent = [0] * len(targets)

    def send(number: int, connector: StreamConnector, deadline: float) -> None:
        while time.monotonic() < deadline:
            connector.send(payload)
            sent[number] += 1
        connector.flush("processed")

    with ExitStack() as parts:
        opened = [parts.enter_context(target.connector(window * size_bytes)) for target in targets]
        for connector in opened:
            connector.send(payload)
        for connector in opened:
            connector.flush("processed")
        if all_ready is not None:
            all_ready.wait(_READY_WITHIN_S)
        begun = time.monotonic()
        senders = [threading.Thread(target=send, args=(*each, begun + seconds)) for each in enumerate(opened)]
        for sender in senders:
            sender.start()
        threads = threads_of(os.getpid())
        for sender in senders:
            sender.join()
        return Shares(tuple(sent), time.monotonic() - begun, threads)


@contextmanager
def crowd(target: Target, count: int) -> Iterator[None]:
    """Have so many more connections to an engine of a stream, which are idle."""
    open_file_limit.raise_own()
    with MasterClient(target.master, target.token) as client:
        lease = client.request_leases(LeaseRequest(target.stream, _CROWD, 1)).leases[0]
        hello = Hello(
            Role.CONNECTOR,
            stream=target.stream,
            source=_CROWD,
            engine=lease.engine,
            ticket=lease.ticket,
            versions=(VERSION,),
        )
        with Crowd(lease.address, hello) as connections:
            connections.come(count)
            yield
        client.release_leases(LeaseList(_CROWD, (lease.lease,)))
