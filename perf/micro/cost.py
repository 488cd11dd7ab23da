"""What a message costs: CPU time for each GB, and the most memory that connector and engine have at once.

CPU time is that of the source and the engine, beside that of raw TCP's source and worker. Memory is that of processes
of their own, beside the window times the size, and 100 MB for all else that a process with Python in it has.
"""

from __future__ import annotations

from collections.abc import Iterator

from micro import raw_tcp, source
from micro.cluster import BenchCluster, OwnProcess, bench_cluster
from micro.machine import peak_memory_mb
from micro.pairs import interleaved
from micro.row import Effort, Row, row_of
from micro.sizes import LARGE_BYTES, messages_of, window_of
from micro.source import Target

CPU_GOAL = 1.25
BASE_MB = 100.0


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of memory, then those of CPU time."""
    with bench_cluster() as bench:
        bench.declare()
        yield from _memory(bench, 10**6 if effort.is_smoke else LARGE_BYTES, effort)
        target = bench.scale(1)
        with OwnProcess() as process:
            for size_bytes in effort.sizes_or(10**6):
                yield _cpu(process, target, size_bytes, effort)


def _memory(bench: BenchCluster, size_bytes: int, effort: Effort) -> Iterator[Row]:
    """Each run has a source and an engine that have done nothing before, and each message memory of its own."""
    window, messages = window_of(size_bytes), messages_of(size_bytes, effort.seconds)
    bound_mb = window * size_bytes / 1e6 + BASE_MB
    sources, engines = [], []
    for _ in range(1 if effort.is_smoke else 3):
        target = bench.scale(1)
        with OwnProcess() as process:
            run = process.call(source.new_payloads, target, size_bytes, messages, window)
        sources.append((run.peak_memory_mb, bound_mb))
        engines.append((peak_memory_mb(target.engine_pids[0]), bound_mb))
        bench.scale(0)
    name = "window x size + 100 MB"
    for what, pairs in (("peak memory, connector", sources), ("peak memory, engine", engines)):
        yield row_of(what, size_bytes, 1, pairs, unit="MB", limit_name=name, at_most=1.0)


def _cpu(process: OwnProcess, target: Target, size_bytes: int, effort: Effort) -> Row:
    window, messages = window_of(size_bytes), messages_of(size_bytes, effort.seconds)
    gigabytes = messages * size_bytes / 1e9
    pairs = interleaved(
        effort.pairs,
        lambda: process.call(source.peer_to_peer, target, size_bytes, messages, window).cpu_s / gigabytes,
        lambda: process.call(raw_tcp.run, size_bytes, messages, window, 1).cpu_s / gigabytes,
    )
    return row_of("CPU time", size_bytes, 1, pairs, unit="CPU s/GB", at_most=CPU_GOAL)
