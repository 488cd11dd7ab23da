"""NATS: request and reply, and JetStream with a work queue that is kept in files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from micro.peers.base import Peer, Work, free_port, program, touch
from micro.peers.server import server
from micro.sizes import payload_of

_QUEUE = "workers"
_PREFETCH = 16
_PENDING_BYTES = 2**30
#: The most that NATS recommends, and more than the largest message.
_CONFIGURATION = """
listen: "127.0.0.1:{port}"
max_payload: 67108864
max_pending: 1073741824
jetstream {{ store_dir: "{folder}/js" }}
"""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nats.conf"
    path.write_text(_CONFIGURATION.format(port=port, folder=folder))
    with server([program("nats-server"), "-c", str(path)], port, folder):
        yield f"nats://127.0.0.1:{port}"


async def _connected(work: Work) -> Any:
    import nats

    return await nats.connect(work.server, pending_size=_PENDING_BYTES)


# ── request and reply ────────────────────────────────────────────────────────────────────────────────────────────────


def reply(report: Connection, work: Work) -> None:
    """The worker of request and reply."""

    async def run() -> None:
        client = await _connected(work)

        async def handle(message: Any) -> None:
            touch(message.data)
            await message.respond(b"\1")

        await client.subscribe(work.name, _QUEUE, cb=handle, pending_bytes_limit=_PENDING_BYTES)
        await client.flush()
        report.send("")
        await asyncio.Event().wait()

    asyncio.run(run())


def request(work: Work) -> float:
    """The source of request and reply: as many tasks as the window has room."""

    async def run() -> float:
        client, payload = await _connected(work), payload_of(work.size_bytes)

        async def ask(deadline: float) -> int:
            asked = 0
            while asked == 0 or time.perf_counter() < deadline:
                await client.request(work.name, payload, timeout=60)
                asked += 1
            return asked

        await asyncio.gather(*(ask(0.0) for _ in range(work.window)))
        begun = time.perf_counter()
        asked = await asyncio.gather(*(ask(begun + work.seconds) for _ in range(work.window)))
        took_s = time.perf_counter() - begun
        await client.close()
        return sum(asked) / took_s

    return asyncio.run(run())


# ── JetStream ────────────────────────────────────────────────────────────────────────────────────────────────────────


def consume(report: Connection, work: Work) -> None:
    """The worker of JetStream: it fetches some, acknowledges each and tells the source."""

    async def run() -> None:
        import nats.errors
        from nats.js.api import RetentionPolicy, StreamConfig

        client = await _connected(work)
        jet_stream = client.jetstream()
        await jet_stream.add_stream(
            StreamConfig(name=work.name, subjects=[work.name], retention=RetentionPolicy.WORK_QUEUE)
        )
        taken = await jet_stream.pull_subscribe(work.name, durable=_QUEUE)
        report.send("")
        while True:
            try:
                messages = await taken.fetch(_PREFETCH if work.window > _PREFETCH else 1, timeout=0.5)
            except nats.errors.TimeoutError:
                continue
            for message in messages:
                touch(message.data)
                await message.ack()
                await client.publish(f"{work.name}-answers", b"\1")

    asyncio.run(run())


def publish(work: Work) -> float:
    """The source of JetStream: each message is acknowledged by the server, and answered by the worker."""

    async def run() -> float:
        client, payload = await _connected(work), payload_of(work.size_bytes)
        jet_stream, room = client.jetstream(), asyncio.Semaphore(work.window)
        under_way: set[asyncio.Task[Any]] = set()

        async def answered(message: Any) -> None:
            room.release()

        await client.subscribe(f"{work.name}-answers", cb=answered)

        async def send() -> None:
            await room.acquire()
            task = asyncio.create_task(jet_stream.publish(work.name, payload, timeout=60))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        async def settle() -> None:
            for _ in range(work.window):
                await room.acquire()
            for _ in range(work.window):
                room.release()
            await asyncio.gather(*under_way)

        for _ in range(work.window):
            await send()
        await settle()
        sent, begun = 0, time.perf_counter()
        while sent == 0 or time.perf_counter() < begun + work.seconds:
            await send()
            sent += 1
        await settle()
        took_s = time.perf_counter() - begun
        await client.close()
        return sent / took_s

    return asyncio.run(run())


REQUEST_REPLY = Peer("NATS request/reply", request, reply, serve, modules=("nats",), programs=("nats-server",))
JET_STREAM = Peer(
    "NATS JetStream work queue, file store", publish, consume, serve, modules=("nats",), programs=("nats-server",)
)
