"""Throughput peer to peer, beside the limit of its transport to as many workers.

To measure another transport, give it a line of ``TRANSPORTS``. Messages that a source makes in place, in shared memory,
are copied nowhere: no size should make them slower than a fixed line.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harmonicio.core.settings import ConnectorSettings
from micro import raw_tcp, source
from micro.cluster import OwnProcess, bench_cluster
from micro.pairs import interleaved, ratios
from micro.row import TCP, Effort, Row, row_of
from micro.sizes import WINDOW, messages_of, window_of
from micro.source import Target

SIZES = (100, 10**3, 10**4, 10**5, 10**6, 10**7)
SIZES_IN_PLACE = SIZES[1:]
#: How many messages made in place should pass in a second, whatever their size.
IN_PLACE_PER_S = 50_000
#: What a connector has under way unless it is told otherwise: of the largest, that are fewer than the window.
BUDGET_BYTES = ConnectorSettings().byte_budget_bytes


@dataclass(frozen=True, slots=True)
class Transport:
    """One way from source to engine.

    Attributes:
        limit: Runs the limit in the source's process, as :func:`raw_tcp.run` does.
        limit_name: Names it.
        goals: What the ratio should be, by size.
        options: Arguments of the connector that choose it.
    """

    name: str
    limit: Callable[[int, int, int, int], raw_tcp.RawRun]
    limit_name: str
    goals: Mapping[int, float]
    options: Mapping[str, Any] = field(default_factory=dict)


TRANSPORTS = (
    Transport(
        TCP,
        raw_tcp.run,
        "raw TCP",
        {100: 2.0, 10**3: 2.0, 10**4: 1.0, 10**5: 0.9, 10**6: 0.95, 10**7: 0.95},
        {"arena_max_bytes": 0},
    ),
    Transport("arena", raw_tcp.run, "raw TCP", {10**5: 2.0, 10**6: 1.4, 10**7: 2.0}),
)


def measure(effort: Effort) -> Iterator[Row]:
    """Yield a row for each number of engines, transport and size."""
    with bench_cluster() as bench, OwnProcess() as process:
        bench.declare()
        for engines in effort.engines_or(1, 2):
            target = bench.scale(engines)
            for transport in TRANSPORTS:
                over = replace(target, options=dict(transport.options))
                for size_bytes in effort.sizes_or(*SIZES):
                    yield _row(process, transport, over, size_bytes, effort)
            for size_bytes in effort.sizes_or(*SIZES_IN_PLACE):
                yield _row_in_place(process, replace(target, options={}), size_bytes, effort)


def _row(process: OwnProcess, transport: Transport, target: Target, size_bytes: int, effort: Effort) -> Row:
    messages, window = messages_of(size_bytes, effort.seconds), window_of(size_bytes)
    engines = len(target.engine_pids)
    runs = interleaved(
        effort.pairs,
        lambda: process.call(source.peer_to_peer, target, size_bytes, messages, window),
        lambda: process.call(transport.limit, size_bytes, messages, window, engines),
    )
    pairs = [(ours.messages_per_s, limit.messages_per_s) for ours, limit in runs]
    # On a machine that others use as well, this tells more than the rate does.
    more = {"cpu_ratio": ratios([(ours.cpu_s, limit.cpu_s) for ours, limit in runs]).median}
    return row_of(
        "peer to peer",
        size_bytes,
        engines,
        pairs,
        limit_name=transport.limit_name,
        transport=transport.name,
        at_least=transport.goals.get(size_bytes),
        more=more,
    )


def _row_in_place(process: OwnProcess, target: Target, size_bytes: int, effort: Effort) -> Row:
    messages, window = int(IN_PLACE_PER_S * effort.seconds), min(WINDOW, BUDGET_BYTES // size_bytes)
    runs = [process.call(source.in_place, target, size_bytes, messages, window) for _ in range(effort.pairs)]
    engines_s = statistics.median(run.cpu_s - run.source_cpu_s for run in runs)
    more = {
        "source_us": statistics.median(run.source_cpu_s for run in runs) / messages * 1e6,
        "engines_us": engines_s / messages * 1e6,
    }
    return row_of(
        "made in place",
        size_bytes,
        len(target.engine_pids),
        [(run.messages_per_s, IN_PLACE_PER_S) for run in runs],
        limit_name="the line",
        transport="arena",
        at_least=1.0,
        more=more,
    )
