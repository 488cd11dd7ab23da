"""All peers in turn, round by round, with raw TCP and HarmonicIO among them.

    round 0   raw TCP, HarmonicIO, pyzmq, gRPC …      round 1   … gRPC, pyzmq, HarmonicIO, raw TCP

A row is one peer beside raw TCP of the same round; ``harmonicio_times`` is how many times its rate HarmonicIO has.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

from micro import raw_tcp, source
from micro.cluster import BenchCluster, OwnProcess, bench_cluster
from micro.peers.base import Peer, Work, running
from micro.peers.table import PEERS
from micro.row import Effort, Row, missing_row, row_of
from micro.sizes import messages_of, window_of

SIZES = (100, 10**3, 10**4, 10**5, 10**6, 10**7)
RAW, OURS, OURS_ON_ONE_HOST = "raw TCP", "HarmonicIO", "HarmonicIO, shared memory of the host"
#: Rounds and seconds beside those of other benches: there are many peers, and they differ by much more than noise.
_ROUNDS_SHARE, _SECONDS_SHARE = 0.3, 0.5
_NAMES = count()


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of all peers for each size and number of workers, then those that are not here."""
    usable = [peer for peer in PEERS if not _why_not(peer, effort)]
    short = replace(effort, pairs=max(1, round(effort.pairs * _ROUNDS_SHARE)), seconds=effort.seconds * _SECONDS_SHARE)
    with bench_cluster() as bench:
        bench.declare()
        for workers in effort.engines_or(1, 2):
            for size_bytes in effort.sizes_or(*SIZES):
                yield from _cell(bench, usable, size_bytes, workers, short)
    for peer in PEERS:
        if reason := _why_not(peer, effort):
            yield missing_row(peer.name, reason)


def _why_not(peer: Peer, effort: Effort) -> str:
    if not peer.is_usual and effort.peers != "all":
        return "left out, ask for it with PEERS=all"
    return peer.lacks


def _cell(bench: BenchCluster, peers: list[Peer], size_bytes: int, workers: int, effort: Effort) -> Iterator[Row]:
    """One size and number of workers."""
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="harmonicio-perf-")))
        process = parts.enter_context(OwnProcess())
        runs = _bare_runs(bench, process, size_bytes, workers, effort)
        for number, peer in enumerate(peers):
            server = parts.enter_context(peer.serve(folder / str(number)))
            work = Work(size_bytes, window_of(size_bytes), effort.seconds, "", server, ("",) * workers)
            runs[peer.name] = _run_of(peer, work, process)
        rounds = [_round(runs, number) for number in range(effort.pairs)]
    for name in runs:
        pairs = [(rates[name], rates[RAW]) for rates in rounds]
        more = {"harmonicio_times": statistics.median(rates[OURS] / rates[name] for rates in rounds)}
        transport = "arena" if name == OURS_ON_ONE_HOST else "tcp"
        yield row_of(name, size_bytes, workers, pairs, transport=transport, more=more)


def _bare_runs(
    bench: BenchCluster, process: OwnProcess, size_bytes: int, workers: int, effort: Effort
) -> dict[str, Callable[[], float]]:
    target = bench.scale(workers)
    messages, window = messages_of(size_bytes, effort.seconds), window_of(size_bytes)

    def ours(where: source.Target) -> float:
        return process.call(source.peer_to_peer, where, size_bytes, messages, window).messages_per_s

    return {
        RAW: lambda: process.call(raw_tcp.run, size_bytes, messages, window, workers).messages_per_s,
        OURS: lambda: ours(target),
        OURS_ON_ONE_HOST: lambda: ours(replace(target, options={})),
    }


def _run_of(peer: Peer, work: Work, process: OwnProcess) -> Callable[[], float]:
    def run() -> float:
        named = replace(work, name=f"work{next(_NAMES)}")
        with running(peer.worker, named, len(work.workers)) as addresses:
            return process.call(peer.source, replace(named, workers=addresses or work.workers))

    return run


def _round(runs: Mapping[str, Callable[[], float]], number: int) -> dict[str, float]:
    names = list(runs)[:: -1 if number % 2 else 1]
    return {name: runs[name]() for name in names}
