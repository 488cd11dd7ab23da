"""Raw TCP, the limit that the data plane is held against.

Blocking sockets, one ``sendmsg`` of length and payload; the worker process reads with MSG_WAITALL into one kept buffer
and answers one byte after a no-op function has seen the payload. One connection and one thread per worker; the window
is the number of messages that are sent and not yet answered.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import struct
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class RawRun:
    """What one run reached; latencies in seconds, one message in flight when the window is 1."""

    messages_per_s: float
    latencies_s: list[float]
    cpu_s: float


def _touch(payload: memoryview) -> None:
    """The no-op that stands for the handler."""


def _worker(report: Connection, size_bytes: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    report.send(listener.getsockname()[1])
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    length = memoryview(bytearray(_LENGTH.size))
    payload = memoryview(bytearray(size_bytes))
    while sock.recv_into(length, 0, socket.MSG_WAITALL) == _LENGTH.size:
        (size,) = _LENGTH.unpack(length)
        if sock.recv_into(payload[:size], 0, socket.MSG_WAITALL) < size:
            break
        _touch(payload)
        sock.send(b"\1")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report.send(usage.ru_utime + usage.ru_stime)
    sock.close()
    listener.close()


def _source(port: int, payload: bytes, messages: int, window: int, latencies_s: list[float]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        length = _LENGTH.pack(len(payload))
        answered = 0
        for sent in range(messages):
            begun = time.perf_counter()
            _send(sock, length, payload)
            while sent + 1 - answered >= window or (sent + 1 == messages and answered < messages):
                answered += len(sock.recv(65536))
            if window == 1:
                latencies_s.append(time.perf_counter() - begun)


def _send(sock: socket.socket, length: bytes, payload: bytes) -> None:
    sent = sock.sendmsg([length, payload])
    if sent < len(length) + len(payload):
        rest = memoryview(payload)[sent - len(length) :]
        sock.sendall(rest)


def run(size_bytes: int, messages: int, window: int, workers: int) -> RawRun:
    """Send ``messages`` messages of ``size_bytes`` to ``workers`` worker processes."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(theirs, size_bytes))
        process.start()
        pipes.append(ours)
        processes.append(process)
    ports = [pipe.recv() for pipe in pipes]
    payload = bytes(size_bytes)
    latencies_s: list[float] = []
    share, own_cpu, begun = messages // workers, time.process_time(), time.perf_counter()
    threads = [
        threading.Thread(target=_source, args=(port, payload, share, max(1, window // workers), latencies_s))
        for port in ports
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - begun
    own_cpu = time.process_time() - own_cpu
    workers_cpu = sum(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    return RawRun(share * workers / took_s, latencies_s, own_cpu + workers_cpu)
