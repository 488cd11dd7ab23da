"""A cluster on this machine for measurements: master and worker here, engines as processes, a source of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from harmonicio.cli.local_cluster import SETTLE_S, LocalCluster
from harmonicio.control.messages import EngineView
from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import BacklogOptions, MasterOptions
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.worker.options import WorkerOptions
from micro.source import Target

STREAM = "bench"
STARTED_WITHIN_S = 300.0
ASK_AT_MOST_EVERY_S = 0.01
NOOP = Path(__file__).resolve().with_name("noop_engine.py")

Answer = TypeVar("Answer")


class BenchCluster:
    """A cluster whose engines do nothing with what they get.

    Attributes:
        cluster: What it is made of.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster

    def __repr__(self) -> str:
        return f"<BenchCluster {self.cluster!r}>"

    def declare(self, stream: str = STREAM, handler: Path = NOOP, **options: Any) -> None:
        """Declare a stream without engines."""
        self.cluster.declare(StreamDeclaration(stream, handler=str(handler), engines=0, **options))

    def scale(self, engines: int, stream: str = STREAM) -> Target:
        """Run so many engines of a stream, and return what a source needs to know to send to them."""
        client = self.cluster.client
        client.scale_stream(stream, engines)
        self.cluster.wait_for_engines(stream, engines, timeout_s=STARTED_WITHIN_S)
        wait_until(lambda: len(self.engines(stream)) == engines, STARTED_WITHIN_S, what="surplus engines to end")
        pids = tuple(view.pid for view in self.engines(stream))
        return Target(stream, self.cluster.url, self.cluster.source_token, pids)

    def engines(self, stream: str = STREAM) -> list[EngineView]:
        """Return the engines of a stream as the master sees them."""
        return [view for view in self.cluster.client.engines() if view.stream == stream and view.pid]

    def waiting(self, stream: str = STREAM) -> int:
        """Return how many messages of a stream are in the backlog."""
        figures = self.cluster.client.stream(stream).backlog
        return figures.ready + figures.reserved

    def wait_until_empty(self, stream: str = STREAM, timeout_s: float = STARTED_WITHIN_S) -> None:
        """Wait until nothing of a stream is in the backlog any more.

        It is asked a few times only, most of them when little is left: each question is work for the master that is
        measured, in the same process.
        """
        begun, most = time.monotonic(), self.waiting(stream)
        while left := self.waiting(stream):
            took_s = time.monotonic() - begun
            if took_s > timeout_s:
                raise TimeoutError(f"After {timeout_s:g} s {left} messages of {stream} are still in the backlog.")
            left_s = took_s * left / max(1, most - left)
            time.sleep(max(ASK_AT_MOST_EVERY_S, min(left_s, took_s) / 2))


@contextmanager
def bench_cluster(
    max_engines: int = 8,
    folder: Path | None = None,
    backlog: BacklogOptions | None = None,
    tls: TlsIdentity = NO_TLS,
) -> Iterator[BenchCluster]:
    """Run a cluster, in a folder that is gone afterwards unless one is given; with a certificate it speaks TLS."""
    credentials = TlsCredentials.of(tls)
    with tempfile.TemporaryDirectory(prefix="harmonicio-perf-") as name:
        place = folder or Path(name)
        master = MasterOptions(place / "master", port=0, data_port=0, settle_s=SETTLE_S, tls=credentials)
        worker = WorkerOptions("local", place / "worker", place / "scratch", max_engines=max_engines, tls=credentials)
        with LocalCluster(place, master=master, worker=worker, backlog=backlog) as cluster:
            yield BenchCluster(cluster)


class OwnProcess:
    """A process of its own in which functions of modules are called. Use it as a context manager."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __repr__(self) -> str:
        return f"<OwnProcess {self._pool!r}>"

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what a function returns there; what it raises is raised here."""
        return self._pool.submit(function, *arguments).result()
