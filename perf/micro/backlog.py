"""The backlog: ingest with ``stored`` after the flush, and drain, hot and cold, each beside its limit.

    ingest        one connector to a stream without engines, beside a bare loop that writes and flushes the same
    drain hot     one engine takes what is in the master's memory, beside peer to peer from as much memory
    drain cold    the same when neither the master (it is started anew) nor the kernel has the payloads in memory,
                  beside reading the same files cold

A drain begins when the engine's handler, which waits for a file until then, is let go.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from harmonicio.master.backlog.sqlite import FILE_THREADS
from harmonicio.master.backlog.sqlite_schema import INLINE_MAX_BYTES
from harmonicio.master.service import BacklogOptions
from harmonicio.testing.waiting import wait_until
from micro import bare_store, source
from micro.cluster import BenchCluster, OwnProcess, bench_cluster
from micro.pairs import interleaved
from micro.row import Effort, Row, row_of
from micro.sizes import window_of

SIZES = (10**3, 10**6, 10**7)
INGEST_GOAL, HOT_GOAL, COLD_GOAL = 0.7, 0.8, 0.7
#: At 1 KB so many are enough, however many rows a bare loop commits.
ENOUGH_SMALL_PER_S = 10_000
GATED = Path(__file__).resolve().with_name("gated_engine.py")
#: About what a run of a second stores.
_STORED_BYTES, _STORED_MESSAGES = 800 * 10**6, 20_000
#: What is drained fits in here.
_HOT = BacklogOptions(hot_cache_bytes=4 * 1024**3)


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of ingest, then of hot and of cold drain."""
    sizes = effort.sizes or ((10**3, 10**6) if effort.is_smoke else SIZES)
    with tempfile.TemporaryDirectory(prefix="harmonicio-perf-") as name, OwnProcess() as process:
        part = Part(Path(name), process, effort, count())
        with bench_cluster(folder=part.folder / "cluster", backlog=_HOT) as bench:
            for size_bytes in sizes:
                yield part.ingest(bench, size_bytes)
            for size_bytes in sizes:
                yield part.drain_hot(bench, size_bytes)
        for size_bytes in sizes:
            if size_bytes > INLINE_MAX_BYTES:
                yield part.drain_cold(size_bytes)


@dataclass(frozen=True, slots=True)
class Part:
    """What all three need."""

    folder: Path
    process: OwnProcess
    effort: Effort
    numbers: Iterator[int]

    def _messages(self, size_bytes: int) -> int:
        most = min(_STORED_MESSAGES, _STORED_BYTES // size_bytes)
        return max(window_of(size_bytes), int(most * self.effort.seconds))

    # ── ingest ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def ingest(self, bench: BenchCluster, size_bytes: int) -> Row:
        pairs = interleaved(
            self.effort.pairs, lambda: self._stored_per_s(bench, size_bytes), lambda: self._bare_per_s(size_bytes)
        )
        return row_of("ingest", size_bytes, 0, pairs, limit_name=self._bare_name(size_bytes), at_least=INGEST_GOAL)

    def _stored_per_s(self, bench: BenchCluster, size_bytes: int) -> float:
        stream = f"ingest-{next(self.numbers)}"
        bench.declare(stream)
        per_s = self.process.call(source.into_backlog, bench.scale(0, stream), size_bytes, self._messages(size_bytes))
        bench.cluster.client.delete_stream(stream, is_forced=True)
        return per_s

    def _bare_per_s(self, size_bytes: int) -> float:
        messages = self._messages(size_bytes)
        if size_bytes > INLINE_MAX_BYTES:
            return self.process.call(bare_store.written_per_s, self.folder, size_bytes, messages, FILE_THREADS)
        bare = self.process.call(bare_store.committed_per_s, self.folder, size_bytes, messages)
        return min(bare, ENOUGH_SMALL_PER_S / INGEST_GOAL)

    def _bare_name(self, size_bytes: int) -> str:
        if size_bytes > INLINE_MAX_BYTES:
            return f"files written and flushed by {FILE_THREADS} threads"
        return f"bare group commit, or {ENOUGH_SMALL_PER_S:,} / {INGEST_GOAL} if that is less"

    # ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def drain_hot(self, bench: BenchCluster, size_bytes: int) -> Row:
        bench.declare("peers")
        target = bench.scale(1, "peers")
        messages, window = self._messages(size_bytes), window_of(size_bytes)
        pairs = interleaved(
            self.effort.pairs,
            lambda: self._hot_per_s(bench, size_bytes),
            lambda: (
                self.process.call(source.peer_to_peer, target, size_bytes, messages, window, messages).messages_per_s
            ),
        )
        bench.scale(0, "peers")
        name = "peer to peer, from as much memory"
        return row_of("drain hot", size_bytes, 1, pairs, limit_name=name, at_least=HOT_GOAL)

    def _hot_per_s(self, bench: BenchCluster, size_bytes: int) -> float:
        stream, gate = self._filled(bench, size_bytes)
        per_s = self._drained_per_s(bench, stream, gate)
        bench.cluster.client.delete_stream(stream, is_forced=True)
        return per_s

    def drain_cold(self, size_bytes: int) -> Row:
        pairs = [self._cold_pair(size_bytes) for _ in range(self.effort.pairs)]
        name = "reading the same files cold"
        return row_of("drain cold", size_bytes, 1, pairs, limit_name=name, at_least=COLD_GOAL)

    def _cold_pair(self, size_bytes: int) -> tuple[float, float]:
        """The files are those that the store has written, so reading them bare comes first: then they go."""
        folder = self.folder / f"cold-{next(self.numbers)}"
        with bench_cluster(folder=folder) as bench:
            stream, gate = self._filled(bench, size_bytes)
        files = sorted(folder.glob("master/**/payloads/*/*.bin"))
        bare_store.make_cold(files)
        limit_per_s = self.process.call(bare_store.read_per_s, files)
        with bench_cluster(folder=folder) as bench:
            per_s = self._drained_per_s(bench, stream, gate, cold=files)
        return per_s, limit_per_s

    def _filled(self, bench: BenchCluster, size_bytes: int) -> tuple[str, Path]:
        """Return a new stream whose backlog has been filled, and the gate of its handler."""
        number = next(self.numbers)
        stream, gate = f"drain-{number}", self.folder / f"gate-{number}"
        bench.declare(stream, GATED, parameters={"gate": str(gate)})
        self.process.call(source.into_backlog, bench.scale(0, stream), size_bytes, self._messages(size_bytes))
        return stream, gate

    def _drained_per_s(self, bench: BenchCluster, stream: str, gate: Path, cold: list[Path] | None = None) -> float:
        bench.scale(1, stream)
        wait_until(
            lambda: bench.cluster.client.stream(stream).backlog.reserved, 60.0, what="the engine to have something"
        )
        waiting = bench.waiting(stream)
        bare_store.make_cold(cold or [])
        begun = time.perf_counter()
        gate.touch()
        bench.wait_until_empty(stream)
        took_s = time.perf_counter() - begun
        bench.scale(0, stream)
        return waiting / took_s
