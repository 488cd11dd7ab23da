"""Latency with one message in flight, from ``send`` to the result, beside raw TCP."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from micro import raw_tcp, source
from micro.cluster import OwnProcess, bench_cluster
from micro.pairs import interleaved, percentile
from micro.row import Effort, Row, row_of
from micro.source import Target

GOALS = {10**3: 2.0, 10**6: 1.3}
#: One message in flight takes about that long.
_MESSAGE_S = 500e-6


def measure(effort: Effort) -> Iterator[Row]:
    """Yield a row of medians for each size; the 99th percentiles are beside them."""
    with bench_cluster() as bench, OwnProcess() as process:
        bench.declare()
        target = bench.scale(1)
        for size_bytes in effort.sizes_or(10**3, 10**6):
            yield _row(process, target, size_bytes, effort)


def _row(process: OwnProcess, target: Target, size_bytes: int, effort: Effort) -> Row:
    messages = max(20, int(effort.seconds / _MESSAGE_S))
    pairs = interleaved(
        effort.pairs,
        lambda: process.call(source.latencies_s, target, size_bytes, messages),
        lambda: process.call(raw_tcp.run, size_bytes, messages, 1, 1).latencies_s,
    )
    medians = [(statistics.median(ours) * 1e6, statistics.median(limit) * 1e6) for ours, limit in pairs]
    more = {
        "p99_us": statistics.median(percentile(ours, 0.99) * 1e6 for ours, _ in pairs),
        "limit_p99_us": statistics.median(percentile(limit, 0.99) * 1e6 for _, limit in pairs),
    }
    return row_of("latency", size_bytes, 1, medians, unit="µs", at_most=GOALS.get(size_bytes), more=more)
