"""Throughput peer to peer, beside raw TCP to as many workers."""

from __future__ import annotations

from collections.abc import Iterator

from micro import raw_tcp, source
from micro.cluster import OwnProcess, bench_cluster
from micro.pairs import interleaved
from micro.row import TCP, Effort, Row, row_of
from micro.sizes import messages_of, window_of
from micro.source import Target

SIZES = (100, 10**3, 10**4, 10**5, 10**6, 10**7)
#: What the ratio should be over TCP, by size.
GOALS = {100: 2.0, 10**3: 2.0, 10**4: 1.0, 10**5: 0.9, 10**6: 0.95, 10**7: 0.95}


def measure(effort: Effort) -> Iterator[Row]:
    """Yield a row for each size and number of engines."""
    with bench_cluster() as bench, OwnProcess() as process:
        bench.declare()
        for engines in effort.engines_or(1, 2):
            target = bench.scale(engines)
            for size_bytes in effort.sizes_or(*SIZES):
                yield _row(process, target, size_bytes, effort)


def _row(process: OwnProcess, target: Target, size_bytes: int, effort: Effort) -> Row:
    messages, window = messages_of(size_bytes, effort.seconds), window_of(size_bytes)
    engines = len(target.engine_pids)
    pairs = interleaved(
        effort.pairs,
        lambda: process.call(source.peer_to_peer, target, size_bytes, messages, window).messages_per_s,
        lambda: process.call(raw_tcp.run, size_bytes, messages, window, engines).messages_per_s,
    )
    return row_of("peer to peer", size_bytes, engines, pairs, transport=TCP, at_least=GOALS.get(size_bytes))
