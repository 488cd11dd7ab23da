"""Peer-to-peer throughput and latency, beside raw TCP in interleaved pairs of the same run.

    python perf/micro/p2p.py --sizes 1KB,100KB,1MB,10MB --engines 1,2 --json

A real local cluster is started (master, worker, engines as processes); the source is this process. The window is the
same on both sides: 64 messages, 6 at 10 MB and above, kept by the connector's byte budget. The handler is a no-op.
``ratio_to_raw_tcp`` is the median over the pairs of (our rate / raw rate measured next to it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import raw_tcp

from harmonicio import __version__
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
STREAM = "bench"
LATENCY_MESSAGES = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One size and number of engines."""

    size_bytes: int
    engines: int
    transport: str
    messages_per_s: float
    mb_per_s: float
    ratio_to_raw_tcp: float
    ratio_quartiles: tuple[float, float]
    raw_messages_per_s: float
    p50_us: float
    raw_p50_us: float
    cpu_s_per_gb: float
    raw_cpu_s_per_gb: float
    peak_rss_mb: float
    pairs: int
    messages: int


@dataclass(frozen=True, slots=True)
class Sent:
    """One run through the cluster."""

    messages_per_s: float
    cpu_s: float


def parse_size(text: str) -> int:
    """Return the bytes of ``1KB``, ``10MB`` … (powers of ten)."""
    unit = text.lstrip("0123456789.")
    return int(float(text[: len(text) - len(unit)]) * UNITS[unit.strip().upper() or "B"])


def window_of(size_bytes: int) -> int:
    return 6 if size_bytes >= 10 * 10**6 else 64


def messages_of(size_bytes: int, seconds: float) -> int:
    """About how many messages raw TCP moves in that time on a small machine: enough to be past the start."""
    per_second = min(100_000.0, 4e9 / size_bytes)
    return max(2 * window_of(size_bytes), int(per_second * seconds))


class Bench:
    """A cluster with a number of engines, and the processes whose CPU and memory are counted."""

    def __init__(self, cluster: LocalCluster, engines: int) -> None:
        self._cluster = cluster
        cluster.client.scale_stream(STREAM, engines)
        cluster.wait_for_engines(STREAM, engines)
        pids = [view.pid for view in cluster.client.engines() if view.stream == STREAM and view.pid]
        self._processes = [psutil.Process(pid) for pid in pids]

    def run(self, size_bytes: int, messages: int, window: int) -> Sent:
        """Send the messages and wait until every one was handled."""
        payload = bytes(size_bytes)
        budget_bytes = window * max(size_bytes, 512)
        with self._connector(budget_bytes) as connector:
            for _ in range(len(self._processes) * 4):
                connector.send(payload)
            connector.flush("processed")
            cpu_before, begun = self._cpu_s(), time.perf_counter()
            for _ in range(messages):
                connector.send(payload)
            connector.flush("processed")
            took_s = time.perf_counter() - begun
            return Sent(messages / took_s, self._cpu_s() - cpu_before)

    def latencies_s(self, size_bytes: int) -> list[float]:
        """Return the time from send to result, one message in flight."""
        payload = bytes(size_bytes)
        taken = []
        with self._connector(256 * 2**20) as connector:
            connector.send(payload).result()
            for _ in range(LATENCY_MESSAGES):
                begun = time.perf_counter()
                connector.send(payload).result()
                taken.append(time.perf_counter() - begun)
        return taken

    def peak_rss_mb(self) -> float:
        """Return the largest peak of the source and of the engines."""
        pids = [os.getpid(), *(process.pid for process in self._processes)]
        return max(_peak_rss_mb(pid) for pid in pids)

    def _connector(self, budget_bytes: int) -> StreamConnector:
        return StreamConnector(
            stream=STREAM,
            master=self._cluster.url,
            token=self._cluster.source_token,
            byte_budget_bytes=budget_bytes,
            patience_s=60.0,
        )

    def _cpu_s(self) -> float:
        engines = sum(sum(process.cpu_times()[:2]) for process in self._processes)
        return engines + time.process_time()


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(bench: Bench, size_bytes: int, engines: int, pairs: int, seconds: float) -> Row:
    """Return one row: interleaved pairs of our run and a raw one."""
    window, messages = window_of(size_bytes), messages_of(size_bytes, seconds)
    ours, raws = [], []
    for pair in range(pairs):
        runs = [lambda: raws.append(raw_tcp.run(size_bytes, messages, window, engines))]
        runs.insert(pair % 2, lambda: ours.append(bench.run(size_bytes, messages, window)))
        for run in runs:
            run()
    ratios = sorted(mine.messages_per_s / raw.messages_per_s for mine, raw in zip(ours, raws, strict=True))
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    rate = statistics.median(run.messages_per_s for run in ours)
    gigabytes = messages * size_bytes / 1e9
    raw_latencies_s = raw_tcp.run(size_bytes, LATENCY_MESSAGES, 1, 1).latencies_s
    return Row(
        size_bytes=size_bytes,
        engines=engines,
        transport="tcp",
        messages_per_s=round(rate, 1),
        mb_per_s=round(rate * size_bytes / 1e6, 1),
        ratio_to_raw_tcp=round(statistics.median(ratios), 3),
        ratio_quartiles=(round(quartiles[0], 3), round(quartiles[2], 3)),
        raw_messages_per_s=round(statistics.median(run.messages_per_s for run in raws), 1),
        p50_us=round(statistics.median(bench.latencies_s(size_bytes)) * 1e6, 1),
        raw_p50_us=round(statistics.median(raw_latencies_s) * 1e6, 1),
        cpu_s_per_gb=round(statistics.median(run.cpu_s for run in ours) / gigabytes, 3),
        raw_cpu_s_per_gb=round(statistics.median(run.cpu_s for run in raws) / gigabytes, 3),
        peak_rss_mb=round(bench.peak_rss_mb(), 1),
        pairs=pairs,
        messages=messages,
    )


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "harmonicio": __version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1KB,100KB,1MB,10MB")
    parser.add_argument("--engines", default="1,2")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one run of a pair takes")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        handler = Path(__file__).with_name("noop_engine.py")
        with LocalCluster(Path(folder), max_engines=8) as cluster:
            cluster.declare(StreamDeclaration(STREAM, handler=str(handler.resolve()), engines=0))
            for engines in map(int, options.engines.split(",")):
                bench = Bench(cluster, engines)
                for size_bytes in map(parse_size, options.sizes.split(",")):
                    row = measure(bench, size_bytes, engines, options.pairs, options.seconds)
                    rows.append(asdict(row))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
