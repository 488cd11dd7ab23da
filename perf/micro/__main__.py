"""Run benches: ``python -m micro [BENCH …]``, with PYTHONPATH=perf. See the package, and docs/performance.md."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date
from importlib import import_module
from pathlib import Path

from micro.machine import machine
from micro.plot import as_svg
from micro.report import as_json, as_table, cells
from micro.row import Effort, Row
from micro.sizes import parse_sizes

#: Each is a module of this name; a line for ``--help``.
BENCHES = {
    "p2p": "throughput peer to peer",
    "tls": "throughput peer to peer over TLS",
    "latency": "one message in flight",
    "cost": "CPU time for each GB, peak memory",
    "files": "files in the page cache",
    "backlog": "ingest, hot and cold drain",
    "many": "many engines, many connectors, master requests",
    "peers": "other systems on the same work",
}
SMOKE = Effort(pairs=1, seconds=0.02, is_smoke=True)


def main() -> None:
    options = _options()
    usual = SMOKE if options.smoke else Effort()
    effort = Effort(
        pairs=options.pairs or usual.pairs,
        seconds=options.seconds or usual.seconds,
        is_smoke=options.smoke,
        sizes=parse_sizes(options.sizes) if options.sizes else (),
        engines=tuple(map(int, options.engines.split(","))) if options.engines else (),
        peers=options.peers,
    )
    for bench in options.bench or BENCHES:
        rows = _run(bench, effort)
        print(as_table(rows), flush=True)
        if options.results:
            _keep(Path(options.results), bench, rows, machine())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m micro", description=__doc__)
    named = "; ".join(f"{name}: {line}" for name, line in BENCHES.items())
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], metavar="BENCH", help=f"all by default. {named}")
    parser.add_argument("--sizes", help="like 1KB,1MB, in place of the bench's own")
    parser.add_argument("--engines", help="like 1,2, in place of the bench's own")
    parser.add_argument("--pairs", type=int, help="pairs for each figure (11)")
    parser.add_argument("--seconds", type=float, help="about how long one run of a pair takes (1)")
    parser.add_argument("--peers", default="usual", choices=("usual", "all"), help="all: Ray and Dask, too")
    parser.add_argument("--smoke", action="store_true", help="the least of everything, only to see that it runs")
    parser.add_argument("--results", help="folder for JSON, table and drawing of each bench")
    return parser.parse_args()


def _run(bench: str, effort: Effort) -> list[Row]:
    begun, rows = time.monotonic(), []
    for row in import_module(f"micro.{bench}").measure(effort):
        rows.append(row)
        print(f"{bench}: {' | '.join(filter(None, cells(row)))}", file=sys.stderr, flush=True)
    print(f"{bench}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return rows


def _keep(folder: Path, bench: str, rows: list[Row], facts: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{date.today().isoformat()}-{bench}"
    base.with_suffix(".json").write_text(as_json(bench, facts, rows))
    base.with_suffix(".md").write_text(as_table(rows))
    base.with_suffix(".svg").write_text(as_svg(f"{bench}: ratio to the limit", rows))


if __name__ == "__main__":
    main()
