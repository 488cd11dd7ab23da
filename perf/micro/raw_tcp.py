"""Raw TCP, the limit that the data plane is held against.

Blocking sockets, one ``sendmsg`` of length and payload; the worker process reads with MSG_WAITALL into one kept buffer
and answers one byte after a no-op function has seen the payload. One connection and one thread per worker; the window
is the number of messages that are sent and not yet answered. Files are sent with ``sendfile`` behind the length, or
read into a kept buffer first. Both ends are warm when the time begins: ``WARM_UP`` messages have passed.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from micro.sizes import payload_of

_LENGTH = struct.Struct("!Q")
WARM_UP = 4
#: Sends the message of this number, with its length before it.
Send = Callable[[socket.socket, int], None]


@dataclass(frozen=True, slots=True)
class RawRun:
    """What one run reached; latencies in seconds, one message in flight when the window is 1."""

    messages_per_s: float
    latencies_s: list[float]
    cpu_s: float


def run(
    size_bytes: int, messages: int, window: int, workers: int, files: Sequence[Path] = (), how: str = "memory"
) -> RawRun:
    """Send ``messages`` messages of ``size_bytes`` to ``workers`` worker processes.

    Args:
        files: What is sent in turn, each of ``size_bytes``, unless ``how`` is ``memory``.
        how: ``memory``, ``sendfile`` or ``read``.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(theirs, size_bytes))
        process.start()
        pipes.append(ours)
        processes.append(process)
    sends = [_sender(how, size_bytes, files) for _ in pipes]
    sockets = [_connected(pipe.recv()) for pipe in pipes]
    latencies_s: list[float] = []
    for sock, send in zip(sockets, sends, strict=True):
        _source(sock, send, WARM_UP, 1, [])
    for pipe in pipes:
        pipe.send("count from here")
        pipe.recv()
    share, own_cpu, begun = messages // workers, time.process_time(), time.perf_counter()
    threads = [
        threading.Thread(target=_source, args=(sock, send, share, max(1, window // workers), latencies_s))
        for sock, send in zip(sockets, sends, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - begun
    own_cpu = time.process_time() - own_cpu
    for sock in sockets:
        sock.close()
    workers_cpu = sum(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    return RawRun(share * workers / took_s, latencies_s, own_cpu + workers_cpu)


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _touch(payload: memoryview) -> None:
    """The no-op that stands for the handler."""


def _worker(report: Connection, size_bytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        report.send(listener.getsockname()[1])
        sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    length = memoryview(bytearray(_LENGTH.size))
    payload = memoryview(bytearray(size_bytes))
    serve_counted(report, lambda: _serve(sock, length, payload))
    sock.close()


def serve_counted(report: Connection, serve: Callable[[], bool]) -> None:
    """Serve until nothing more comes, and report the CPU time in seconds, from when the source says so on."""
    for _ in range(WARM_UP):
        serve()
    report.recv()
    begun_s = time.process_time()
    report.send("counting")
    while serve():
        pass
    report.send(time.process_time() - begun_s)


def _serve(sock: socket.socket, length: memoryview, payload: memoryview) -> bool:
    if sock.recv_into(length, 0, socket.MSG_WAITALL) < _LENGTH.size:
        return False
    (size,) = _LENGTH.unpack(length)
    if sock.recv_into(payload[:size], 0, socket.MSG_WAITALL) < size:
        return False
    _touch(payload)
    sock.send(b"\1")
    return True


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _source(sock: socket.socket, send: Send, messages: int, window: int, latencies_s: list[float]) -> None:
    answered = 0
    for sent in range(messages):
        begun = time.perf_counter()
        send(sock, sent)
        while sent + 1 - answered >= window or (sent + 1 == messages and answered < messages):
            answered += len(sock.recv(65536))
        if window == 1:
            latencies_s.append(time.perf_counter() - begun)


def _sender(how: str, size_bytes: int, files: Sequence[Path]) -> Send:
    length = _LENGTH.pack(size_bytes)
    payload = payload_of(size_bytes) if how == "memory" else b""
    buffer = memoryview(bytearray(0 if how == "memory" else size_bytes))

    def from_memory(sock: socket.socket, number: int) -> None:
        _send_all(sock, length, payload)

    def by_reading(sock: socket.socket, number: int) -> None:
        with open(files[number % len(files)], "rb", buffering=0) as file:
            file.readinto(buffer)
        _send_all(sock, length, buffer)

    def by_sendfile(sock: socket.socket, number: int) -> None:
        with open(files[number % len(files)], "rb", buffering=0) as file:
            sock.send(length, socket.MSG_MORE)
            sent = 0
            while sent < size_bytes:
                sent += os.sendfile(sock.fileno(), file.fileno(), sent, size_bytes - sent)

    return {"memory": from_memory, "read": by_reading, "sendfile": by_sendfile}[how]


def _send_all(sock: socket.socket, length: bytes, payload: bytes | memoryview) -> None:
    sent = sock.sendmsg([length, payload])
    if sent < len(length) + len(payload):
        sock.sendall(memoryview(payload)[sent - len(length) :])
