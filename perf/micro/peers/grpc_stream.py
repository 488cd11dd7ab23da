"""gRPC: one bidirectional stream to each worker, with bytes as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from micro.peers.base import Peer, Work, keep_window, touch
from micro.sizes import payload_of

_METHOD = "/micro.Worker/Work"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def serve(report: Connection, work: Work) -> None:
    """The worker."""
    import grpc

    def handle(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for payload in messages:
            touch(payload)
            yield b"\1"

    handler = grpc.method_handlers_generic_handler(
        "micro.Worker", {"Work": grpc.stream_stream_rpc_method_handler(handle)}
    )
    server = grpc.server(ThreadPoolExecutor(4), options=_OPTIONS)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    report.send(f"127.0.0.1:{port}")
    server.wait_for_termination()


def stream(work: Work) -> float:
    """The source."""
    import grpc

    payload, answers = payload_of(work.size_bytes), SimpleQueue[bytes]()
    requests: list[SimpleQueue[bytes | None]] = [SimpleQueue() for _ in work.workers]
    channels = [grpc.insecure_channel(address, options=_OPTIONS) for address in work.workers]

    def collect(channel: Any, outgoing: SimpleQueue[bytes | None]) -> None:
        for answer in channel.stream_stream(_METHOD)(iter(outgoing.get, None)):
            answers.put(answer)

    threads = [threading.Thread(target=collect, args=each) for each in zip(channels, requests, strict=True)]
    for thread in threads:
        thread.start()
    turns = cycle(requests)
    per_s = keep_window(work, lambda: next(turns).put(payload), lambda: len(answers.get()))
    for outgoing in requests:
        outgoing.put(None)
    for thread in threads:
        thread.join()
    for channel in channels:
        channel.close()
    return per_s


STREAM = Peer("gRPC bidirectional stream", stream, serve, modules=("grpc",))
