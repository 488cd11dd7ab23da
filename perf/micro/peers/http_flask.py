"""HTTP: POST into Flask under gunicorn, one process for each worker, over connections that stay open."""

from __future__ import annotations

import http.client
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from micro.peers.base import Peer, Work, free_port, keep_window
from micro.peers.server import server
from micro.sizes import payload_of

_THREADS = 8


def gunicorn(report: Connection, work: Work) -> None:
    """The worker: it starts gunicorn, and ends with it."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with TemporaryDirectory(prefix="harmonicio-perf-") as folder, _gunicorn(Path(folder)) as port:
        report.send(str(port))
        signal.pause()


@contextmanager
def _gunicorn(folder: Path) -> Iterator[int]:
    port = free_port()
    options = ["--workers", "1", "--worker-class", "gthread", "--threads", str(_THREADS), "--keep-alive", "60"]
    bind = ["--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    command = [sys.executable, "-m", "gunicorn", *options, *bind, "--pythonpath", _PERF, "micro.peers.flask_app:app"]
    with server(command, port, folder):
        yield port


_PERF = str(Path(__file__).resolve().parents[2])


def post(work: Work) -> float:
    """The source: a thread for each connection, as a pool of a user's would have."""
    payload = payload_of(work.size_bytes)
    orders, answers = SimpleQueue[bool](), SimpleQueue[bytes]()

    def run(port: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(port))
        while orders.get():
            connection.request("POST", "/", payload)
            with connection.getresponse() as response:
                answers.put(response.read())
        connection.close()

    ports = cycle(work.workers)
    threads = [
        threading.Thread(target=run, args=(next(ports),)) for _ in range(min(work.window, _THREADS * len(work.workers)))
    ]
    for thread in threads:
        thread.start()
    per_s = keep_window(work, lambda: orders.put(True), lambda: len(answers.get()))
    for _ in threads:
        orders.put(False)
    for thread in threads:
        thread.join()
    return per_s


FLASK = Peer("HTTP POST into Flask under gunicorn", post, gunicorn, modules=("flask", "gunicorn"))
