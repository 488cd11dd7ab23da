"""Redis streams: a consumer group takes, acknowledges and deletes; answers come back over a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from micro.peers.base import Peer, Work, free_port, keep_window, program, touch
from micro.peers.server import server
from micro.sizes import payload_of

_GROUP = "workers"
_BLOCK_MS, _MANY = 200, 16


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with server([program("redis-server"), *options], port, folder):
        yield str(port)


def consume(report: Connection, work: Work) -> None:
    """The worker."""
    import redis

    client, answers = redis.Redis(port=int(work.server)), f"{work.name}-answers"
    try:
        client.xgroup_create(work.name, _GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:  # Another worker has made it.
        if "BUSYGROUP" not in str(error):
            raise
    report.send("")
    while True:
        for _, entries in client.xreadgroup(_GROUP, str(os.getpid()), {work.name: ">"}, count=_MANY, block=_BLOCK_MS):
            for number, fields in entries:
                touch(fields[b"payload"])
                with client.pipeline(transaction=False) as pipeline:
                    pipeline.xack(work.name, _GROUP, number).xdel(work.name, number).rpush(answers, b"\1").execute()


def add(work: Work) -> float:
    """The source."""
    import redis

    client, payload = redis.Redis(port=int(work.server)), payload_of(work.size_bytes)
    answers = f"{work.name}-answers"

    def receive() -> int:
        client.blpop([answers])
        return 1 + len(client.lpop(answers, work.window) or ())

    with client:
        return keep_window(work, lambda: client.xadd(work.name, {"payload": payload}), receive)


STREAMS = Peer("Redis streams", add, consume, serve, modules=("redis",), programs=("redis-server",))
