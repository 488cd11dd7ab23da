"""Many engines, connectors and streams, beside one of each; how fair it is, what it takes of threads and of the master.

A figure is the sum over all of them. ``share`` is what the least served has had, beside the best served. Connections
that are idle are all to the engine that is at work for somebody else.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from harmonicio.testing.waiting import wait_until
from micro import source
from micro.cluster import BenchCluster, OwnProcess, bench_cluster
from micro.machine import memory_mb, threads_of
from micro.pairs import interleaved
from micro.row import Effort, Row, row_of
from micro.sizes import messages_of, window_of
from micro.source import Shares, Target

GOAL = 0.8
SIZE_BYTES = 10**6
ENGINES, CONNECTORS, PROCESSES = 50, 50, 5
STREAMS, IDLE = 16, 5_000
SMALL_BYTES, SMALL_MESSAGES, MOST_REQUESTS = 100, 100_000, 100
ONE_TO_ONE = "1 connector to 1 engine"


def measure(effort: Effort) -> Iterator[Row]:
    """Yield one to many, many to two, streams, the master's requests, and what idle connections cost."""
    engines = 4 if effort.is_smoke else ENGINES
    with ExitStack() as parts:
        bench = parts.enter_context(bench_cluster(max_engines=engines + 3))
        processes = [parts.enter_context(OwnProcess()) for _ in range(2 if effort.is_smoke else PROCESSES)]
        for stream in ("one", "two", "many"):
            bench.declare(stream)
        one = bench.scale(1, "one")
        yield _one_to_many(bench, processes[0], one, bench.scale(engines, "many"), effort)
        bench.scale(0, "many")
        yield _many_to_two(processes, one, bench.scale(2, "two"), effort)
        bench.scale(0, "two")
        yield _streams(bench, processes[0], one, effort)
        yield _requests(bench, processes[0], one, effort)
        yield _beside_idle(processes[0], one, effort)


def _one_to_many(bench: BenchCluster, process: OwnProcess, one: Target, many: Target, effort: Effort) -> Row:
    messages, window = messages_of(SIZE_BYTES, effort.seconds), window_of(SIZE_BYTES)
    threads: list[int] = []

    def per_s(target: Target) -> float:
        run = process.call(source.peer_to_peer, target, SIZE_BYTES, messages, window)
        threads.append(run.threads)
        return run.messages_per_s

    pairs = interleaved(effort.pairs, lambda: per_s(many), lambda: per_s(one))
    all_sent = effort.pairs * (messages + source.warm_up(many))
    wait_until(lambda: sum(_handled(bench)) == all_sent, 30, what="the master to know what engines handled")
    handled = _handled(bench)
    used = [each for each in handled if each]  # A connector takes no more leases than keep it busy.
    more = {
        "engines_used": float(len(used)),
        "share": min(used) / max(used),
        "threads_of_source": float(max(threads)),
        "threads_of_an_engine": float(max(map(threads_of, many.engine_pids))),
    }
    return row_of("1 connector", SIZE_BYTES, len(handled), pairs, limit_name=ONE_TO_ONE, at_least=GOAL, more=more)


def _handled(bench: BenchCluster) -> list[int]:
    return [view.handled for view in bench.engines("many")]


def _many_to_two(processes: list[OwnProcess], one: Target, two: Target, effort: Effort) -> Row:
    per_process = 2 if effort.is_smoke else CONNECTORS // len(processes)
    messages, window = messages_of(SIZE_BYTES, effort.seconds), window_of(SIZE_BYTES)
    seen: list[Shares] = []
    shares: list[float] = []

    def all_per_s() -> float:
        # Together they have the same window as one.
        share = max(1, window // (per_process * len(processes)))
        with multiprocessing.Manager() as shared, ThreadPoolExecutor(len(processes)) as callers:
            work = ([two] * per_process, SIZE_BYTES, share, effort.seconds, shared.Barrier(len(processes)))
            calls = [callers.submit(process.call, source.at_once, *work) for process in processes]
            answers = [call.result() for call in calls]
        seen.extend(answers)
        sent = [count for each in answers for count in each.messages]
        shares.append(min(sent) / max(1, max(sent)))
        return sum(sum(each.messages) for each in answers) / max(each.took_s for each in answers)

    pairs = interleaved(
        effort.pairs,
        all_per_s,
        lambda: processes[0].call(source.peer_to_peer, one, SIZE_BYTES, messages, window).messages_per_s,
    )
    more = {
        "share": statistics.median(shares),
        "threads_of_a_source": float(max(each.threads for each in seen)),
        "threads_of_an_engine": float(max(map(threads_of, two.engine_pids))),
    }
    what = f"{per_process * len(processes)} connectors"
    return row_of(what, SIZE_BYTES, 2, pairs, limit_name=ONE_TO_ONE, at_least=GOAL, more=more)


def _streams(bench: BenchCluster, process: OwnProcess, one: Target, effort: Effort) -> Row:
    """One process sends to each stream from a thread; each stream has an engine."""
    names = [f"stream-{number}" for number in range(3 if effort.is_smoke else STREAMS)]
    for name in names:
        bench.declare(name)
    targets = [bench.scale(1, name) for name in names]
    messages, window = messages_of(SIZE_BYTES, effort.seconds), window_of(SIZE_BYTES)
    seen: list[Shares] = []

    def all_per_s() -> float:
        seen.append(process.call(source.at_once, targets, SIZE_BYTES, window // len(targets), effort.seconds))
        return sum(seen[-1].messages) / seen[-1].took_s

    pairs = interleaved(
        effort.pairs,
        all_per_s,
        lambda: process.call(source.peer_to_peer, one, SIZE_BYTES, messages, window).messages_per_s,
    )
    more = {
        "share": statistics.median(min(each.messages) / max(each.messages) for each in seen),
        "threads_of_the_source": float(max(each.threads for each in seen)),
    }
    for name in names:
        bench.scale(0, name)
    return row_of(f"{len(names)} streams", SIZE_BYTES, len(names), pairs, limit_name=ONE_TO_ONE, more=more)


def _beside_idle(process: OwnProcess, one: Target, effort: Effort) -> Row:
    """The same engine, with a crowd of idle connections and without."""
    idle, pid = 100 if effort.is_smoke else IDLE, one.engine_pids[0]
    messages, window = messages_of(SIZE_BYTES, effort.seconds), window_of(SIZE_BYTES)
    before_mb, grown_mb, threads = memory_mb(pid), [0.0], [0]

    def per_s() -> float:
        return process.call(source.peer_to_peer, one, SIZE_BYTES, messages, window).messages_per_s

    def beside_crowd() -> float:
        with source.crowd(one, idle):
            reached = per_s()
            threads.append(threads_of(pid))
            grown_mb.append(memory_mb(pid) - before_mb)
            return reached

    pairs = interleaved(effort.pairs, beside_crowd, per_s)
    more = {
        "threads_of_the_engine": float(max(threads)),
        "engine_grown_mb": max(grown_mb),
        "engine_kb_for_each": max(grown_mb) * 1000 / idle,
    }
    what = f"beside {idle:,} idle connections"
    return row_of(what, SIZE_BYTES, 1, pairs, limit_name="without them", more=more)


def _requests(bench: BenchCluster, process: OwnProcess, one: Target, effort: Effort) -> Row:
    """The master counts what connectors ask it for."""
    messages = 1_000 if effort.is_smoke else SMALL_MESSAGES
    before = bench.cluster.client.status().lease_requests
    process.call(source.peer_to_peer, one, SMALL_BYTES, messages, window_of(SMALL_BYTES))
    asked = bench.cluster.client.status().lease_requests - before
    what = f"requests in {messages:,} messages"
    return row_of(
        what, SMALL_BYTES, 1, [(asked, MOST_REQUESTS)], unit="requests", limit_name="the most allowed", at_most=1.0
    )
