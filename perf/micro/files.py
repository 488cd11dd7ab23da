"""``send_file`` of files in the page cache, beside raw ``sendfile`` and raw read and send: the better of the two.

Both over TCP, and as a connector does it by itself for an engine of its own host.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from micro import raw_tcp, source
from micro.cluster import OwnProcess, bench_cluster
from micro.pairs import interleaved
from micro.row import TCP, Effort, Row, row_of
from micro.sizes import messages_of, window_of
from micro.source import Target

GOAL = 0.9
_FILES_BYTES = 128 * 10**6


def measure(effort: Effort) -> Iterator[Row]:
    """Yield a row for each size."""
    with (
        bench_cluster() as bench,
        OwnProcess() as process,
        tempfile.TemporaryDirectory(prefix="harmonicio-perf-") as folder,
    ):
        bench.declare()
        target = bench.scale(1)
        for size_bytes in effort.sizes_or(10**6, 10**7):
            files = _files(Path(folder), size_bytes)
            yield _row(process, target, size_bytes, files, effort, TCP)
            yield _row(process, replace(target, options={}), size_bytes, files, effort, "arena")


def _files(folder: Path, size_bytes: int) -> list[Path]:
    """Write as many files as fit into caches of the kernel, not of the processor; they are in memory then."""
    paths = [folder / f"{size_bytes}-{number}" for number in range(max(2, min(64, _FILES_BYTES // size_bytes)))]
    for path in paths:
        path.write_bytes(bytes(size_bytes))
    return paths


def _row(
    process: OwnProcess, target: Target, size_bytes: int, files: list[Path], effort: Effort, transport: str
) -> Row:
    messages, window = messages_of(size_bytes, effort.seconds), window_of(size_bytes)

    def raw() -> dict[str, float]:
        return {
            how: process.call(raw_tcp.run, size_bytes, messages, window, 1, files, how).messages_per_s
            for how in ("sendfile", "read")
        }

    pairs = interleaved(
        effort.pairs, lambda: process.call(source.from_files, target, files, messages, window).messages_per_s, raw
    )
    more = {f"raw_{how}_per_s": statistics.median(limit[how] for _, limit in pairs) for how in ("sendfile", "read")}
    best = [(ours, max(limit.values())) for ours, limit in pairs]
    name = "raw sendfile or read and send"
    return row_of("send_file", size_bytes, 1, best, limit_name=name, transport=transport, at_least=GOAL, more=more)
