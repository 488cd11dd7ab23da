"""Throughput peer to peer over TLS, beside a bare SSL socket of Python's with the same window.

The bare one is ``raw_tcp`` over blocking :class:`ssl.SSLSocket`: ``sendall`` of length and payload, ``recv_into`` one
kept buffer until it is full, one byte as the answer. Both sides speak TLS 1.3 with the same certificate and cipher.
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

import trustme

from harmonicio.core.certificates import TlsIdentity
from harmonicio.transport.tls import dialling_context, listening_context
from micro import source
from micro.cluster import OwnProcess, bench_cluster
from micro.pairs import interleaved, ratios
from micro.raw_tcp import WARM_UP, RawRun, serve_counted
from micro.row import Effort, Row, row_of
from micro.sizes import messages_of, payload_of, window_of

HOST = "127.0.0.1"
#: The first is the one that something is asked of.
SIZES = (10**6, 10**4, 10**5, 10**7)
GOALS = {10**6: 0.8}
#: TLS moves about so much of what raw TCP does, and a run should not take longer.
_SHARE_OF_TCP = 0.2

_LENGTH = struct.Struct("!Q")


def measure(effort: Effort) -> Iterator[Row]:
    """Yield a row for each size, with one engine."""
    identity = new_identity()
    believed = TlsIdentity(authority=identity.authority)
    with bench_cluster(tls=identity) as bench, OwnProcess() as process:
        bench.declare()
        target = replace(bench.scale(1), options={"tls": believed, "arena_max_bytes": 0})
        for size_bytes in effort.sizes_or(*SIZES):
            messages, window = messages_of(size_bytes, effort.seconds * _SHARE_OF_TCP), window_of(size_bytes)
            runs = interleaved(
                effort.pairs,
                lambda size=size_bytes, count=messages, most=window: process.call(
                    source.peer_to_peer, target, size, count, most
                ),
                lambda size=size_bytes, count=messages, most=window: process.call(
                    bare_run, identity, size, count, most
                ),
            )
            yield row_of(
                "peer to peer",
                size_bytes,
                1,
                [(ours.messages_per_s, bare.messages_per_s) for ours, bare in runs],
                limit_name="bare SSL socket",
                transport="tls",
                at_least=GOALS.get(size_bytes),
                more={"cpu_ratio": ratios([(ours.cpu_s, bare.cpu_s) for ours, bare in runs]).median},
            )


def new_identity() -> TlsIdentity:
    """Return a certificate for this host, of an authority that nobody else knows."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    return TlsIdentity(
        "".join(each.bytes().decode() for each in issued.cert_chain_pems),
        issued.private_key_pem.bytes().decode(),
        authority.cert_pem.bytes().decode(),
    )


# ── the bare SSL socket ──────────────────────────────────────────────────────────────────────────────────────────────


def bare_run(identity: TlsIdentity, size_bytes: int, messages: int, window: int) -> RawRun:
    """Send messages to one worker process over a blocking SSL socket."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(theirs, identity, size_bytes))
    process.start()
    with socket.create_connection((HOST, pipe.recv())) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        believed = TlsIdentity(authority=identity.authority)
        with dialling_context(believed).wrap_socket(plain, server_hostname=HOST) as sock:
            payload = payload_of(size_bytes)
            _send(sock, payload, WARM_UP, 1)
            pipe.send("count from here")
            pipe.recv()
            own_cpu_s, begun = time.process_time(), time.perf_counter()
            _send(sock, payload, messages, window)
            took_s = time.perf_counter() - begun
            own_cpu_s = time.process_time() - own_cpu_s
    worker_cpu_s = pipe.recv()
    process.join()
    return RawRun(messages / took_s, [], own_cpu_s + worker_cpu_s)


def _send(sock: ssl.SSLSocket, payload: bytes, messages: int, window: int) -> None:
    length, answered = _LENGTH.pack(len(payload)), 0
    for sent in range(messages):
        sock.sendall(length)
        sock.sendall(payload)
        while sent + 1 - answered >= window or (sent + 1 == messages and answered < messages):
            answered += len(sock.recv(65536))


def _worker(report: Connection, identity: TlsIdentity, size_bytes: int) -> None:
    with socket.create_server((HOST, 0)) as listener:
        report.send(listener.getsockname()[1])
        plain, _ = listener.accept()
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listening_context(identity).wrap_socket(plain, server_side=True) as sock:
        length, payload = memoryview(bytearray(_LENGTH.size)), memoryview(bytearray(size_bytes))
        serve_counted(report, lambda: _answer(sock, length, payload))


def _answer(sock: ssl.SSLSocket, length: memoryview, payload: memoryview) -> bool:
    if not (_is_filled(sock, length) and _is_filled(sock, payload)):
        return False
    sock.sendall(b"\1")
    return True


def _is_filled(sock: ssl.SSLSocket, buffer: memoryview) -> bool:
    filled = 0
    while filled < len(buffer):
        count = sock.recv_into(buffer[filled:])
        if not count:
            return False
        filled += count
    return True
