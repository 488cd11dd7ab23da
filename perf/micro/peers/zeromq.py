"""pyzmq, in two shapes: PUSH/PULL with answers over a second pair of sockets, and DEALER/ROUTER."""

from __future__ import annotations

from multiprocessing.connection import Connection

from micro.peers.base import Peer, Work, keep_window, touch
from micro.sizes import payload_of

_LOOPBACK = "tcp://127.0.0.1"


def pull(report: Connection, work: Work) -> None:
    """The worker of PUSH/PULL."""
    import zmq

    context = zmq.Context()
    inbound, outbound = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbound.set_hwm(work.window)
    ports = [each.bind_to_random_port(_LOOPBACK) for each in (inbound, outbound)]
    report.send(" ".join(f"{_LOOPBACK}:{port}" for port in ports))
    while True:
        touch(inbound.recv(copy=False).buffer)
        outbound.send(b"\1")


def push(work: Work) -> float:
    """The source of PUSH/PULL, which spreads over the workers by itself."""
    import zmq

    payload = payload_of(work.size_bytes)
    with zmq.Context() as context, context.socket(zmq.PUSH) as outbound, context.socket(zmq.PULL) as inbound:
        outbound.set_hwm(work.window)
        for addresses in work.workers:
            there, back = addresses.split()
            outbound.connect(there)
            inbound.connect(back)
        return keep_window(work, lambda: outbound.send(payload, copy=False), lambda: len(inbound.recv()))


def router(report: Connection, work: Work) -> None:
    """The worker of DEALER/ROUTER."""
    import zmq

    sock = zmq.Context().socket(zmq.ROUTER)
    report.send(f"{_LOOPBACK}:{sock.bind_to_random_port(_LOOPBACK)}")
    while True:
        who, payload = sock.recv_multipart(copy=False)
        touch(payload.buffer)
        sock.send_multipart([who, b"\1"], copy=False)


def dealer(work: Work) -> float:
    """The source of DEALER/ROUTER."""
    import zmq

    payload = payload_of(work.size_bytes)
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        for address in work.workers:
            sock.connect(address)
        return keep_window(work, lambda: sock.send(payload, copy=False), lambda: len(sock.recv()))


PUSH_PULL = Peer("pyzmq PUSH/PULL, answers over a second pair", push, pull, modules=("zmq",))
DEALER_ROUTER = Peer("pyzmq DEALER/ROUTER", dealer, router, modules=("zmq",))
