"""RabbitMQ: persistent messages that the broker confirms, taken with acknowledgement; answers over a second queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from micro.peers.base import Peer, Work, free_port, keep_window, program, touch
from micro.peers.server import server
from micro.sizes import payload_of

_PREFETCH, _PUBLISHERS = 16, 16


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A node of its own, with a port mapper of its own: one that the node starts would outlive it."""
    port, mapper_port = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rabbit.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nmax_message_size = 134217728\nvm_memory_high_watermark.relative = 0.5\n"
    )
    (folder / "plugins").write_text("[].\n")
    environment = {
        "RABBITMQ_NODENAME": f"perf-{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(mapper_port),
        "HOME": str(folder),
    }
    mapper = [program("epmd"), "-port", str(mapper_port), "-address", "127.0.0.1"]
    with server(mapper, mapper_port, folder / "mapper"), server([_program()], port, folder, environment):
        yield str(port)


def _program() -> str:
    """Debian's script in PATH wants to change to a user of its own; the package's does not."""
    own = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(own) if own.exists() else program("rabbitmq-server")


def _connection(work: Work) -> Any:
    import pika

    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(work.server), heartbeat=0))


def consume(report: Connection, work: Work) -> None:
    """The worker."""
    channel = _connection(work).channel()
    channel.queue_declare(work.name, durable=True)
    channel.queue_declare(f"{work.name}-answers")
    channel.basic_qos(prefetch_count=min(_PREFETCH, work.window))

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        touch(body)
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", f"{work.name}-answers", b"\1")

    channel.basic_consume(work.name, handle)
    report.send("")
    channel.start_consuming()


def publish(work: Work) -> float:
    """The source: as many connections as keep the broker's disk busy, as each waits for its confirmation."""
    orders, answers = SimpleQueue[bool](), SimpleQueue[int]()
    inbound = _connection(work)
    back = inbound.channel()
    back.basic_consume(f"{work.name}-answers", lambda *_: answers.put(1), auto_ack=True)
    threads = [threading.Thread(target=_publisher, args=(work, orders)) for _ in range(min(_PUBLISHERS, work.window))]
    threads.append(threading.Thread(target=back.start_consuming))
    for thread in threads:
        thread.start()
    per_s = keep_window(work, lambda: orders.put(True), answers.get)
    for _ in threads:
        orders.put(False)
    inbound.add_callback_threadsafe(back.stop_consuming)
    for thread in threads:
        thread.join()
    inbound.close()
    return per_s


def _publisher(work: Work, orders: SimpleQueue[bool]) -> None:
    import pika

    payload, kept = payload_of(work.size_bytes), pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    connection = _connection(work)
    channel = connection.channel()
    channel.confirm_delivery()
    while orders.get():
        channel.basic_publish("", work.name, payload, kept)
    connection.close()


QUEUE = Peer(
    "RabbitMQ, confirms and acknowledgements",
    publish,
    consume,
    serve,
    modules=("pika",),
    programs=("rabbitmq-server", "epmd"),
)
