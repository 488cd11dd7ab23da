"""``make simulate``: runs seeds in several processes, adds up what they hit, and prints violations.

    RUNS=… SEED=…    so many seeds from this one on
    SEED=…           this seed alone, with the trace of the messages in question
    PLANT=…          with a planted bug, until a seed finds it
    LASTING=…        with a single fault that lasts for minutes or hours

A run depends on its seed alone. Hashes of texts must do so, too: this starts itself anew with PYTHONHASHSEED=0.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from typing import Any

from simulation.faults import KINDS
from simulation.hits import missing
from simulation.lasting import LASTING, lasting
from simulation.plants import PLANTS
from simulation.schedule import draw
from simulation.world import World

MAX_SHOWN_VIOLATIONS = 12
MAX_TRACED = 400
COLLECT_EVERY = 4
#: A world cannot be freed as long as greenlets that died in it are held by their library, so a process ends after so
#: many runs and the next one goes on.
RUNS_PER_PROCESS = 100
#: With so many runs, everything that is drawn must have happened.
ALL_HIT_FROM = 2_000


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "simulation.run", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    options = _options()
    if options.part:
        return _part(options)
    if options.runs == 1:
        return _single(options.seed, options)
    return _many(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulate clusters under faults.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--plant", choices=["", *PLANTS], default="", help="a bug to be found")
    parser.add_argument("--lasting", choices=["", *LASTING], default="", help="the only fault, which lasts")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _world(seed: int, options: argparse.Namespace, *, is_traced: bool = False) -> World:
    plan = draw(seed, KINDS)
    if options.lasting:
        plan = lasting(plan, options.lasting)
    return World(plan, is_traced=is_traced, plant=options.plant)


# ── one seed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _single(seed: int, options: argparse.Namespace) -> int:
    """Run one seed, and show what happened to the messages that violations name."""
    world = _world(seed, options, is_traced=True)
    violations = world.run()
    print(f"seed {seed}: {world.plan.workers} workers, {len(world.plan.messages)} messages, faults:")
    for fault in world.plan.faults:
        print(f"  {fault.at_s:8.3f} s  {fault.kind} for {fault.lasts_s:.2f} s")
    for name in [name for name in world.planned if any(repr(name) in each for each in violations)][:3]:
        print(f"\nwhat happened to {name!r} ({world.planned[name].deed}):")
        lines = [line for line in world.trace if repr(name) in line or "fault" in line]
        print("\n".join(lines[-MAX_TRACED:]))
    print(f"\n{world.loop.now:.1f} s of simulated time, {world.loop.calls} calls: {world.auditor.figures()}")
    _print_hits(world.hits)
    for violation in violations:
        print(f"VIOLATION {violation}")
    print(f"{len(violations)} violations")
    return bool(violations)


# ── many seeds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _part(options: argparse.Namespace) -> int:
    """Run every so many-th seed; print one line of JSON for each."""
    gc.collect()
    gc.freeze()
    gc.disable()  # A run leaves some megabytes, which are collected between runs.
    seeds = range(options.seed, options.seed + options.runs, options.step)
    for seed in seeds[:RUNS_PER_PROCESS]:
        _run_silently(seed, options)
        if seed // options.step % COLLECT_EVERY == 0:
            gc.collect()
    if len(seeds) > RUNS_PER_PROCESS:
        _go_on_in_a_new_process(options, seeds[RUNS_PER_PROCESS])
    return 0


def _run_silently(seed: int, options: argparse.Namespace) -> None:
    world = _world(seed, options)
    violations = world.run()
    line = {
        "seed": seed,
        "violations": violations,
        "hits": world.hits,
        "figures": world.auditor.figures(),
        "faults": len(world.plan.faults),
    }
    print(json.dumps(line), flush=True)


def _go_on_in_a_new_process(options: argparse.Namespace, seed: int) -> None:
    runs = options.seed + options.runs - seed
    os.execv(sys.executable, _part_command(options, seed, runs))


def _many(options: argparse.Namespace) -> int:
    begun = time.perf_counter()
    hits: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    runs = violations = faults = 0
    lines = _lines(options)
    for line in lines:
        runs += 1
        hits.update(line["hits"])
        figures.update(line["figures"])
        faults += line["faults"]
        violations += len(line["violations"])
        if line["violations"]:
            kind = f" PLANT={options.plant}" if options.plant else ""
            kind += f' LASTING="{options.lasting}"' if options.lasting else ""
            print(f"\nseed {line['seed']}: repeat with  make simulate SEED={line['seed']}{kind}")
            for each in line["violations"][:MAX_SHOWN_VIOLATIONS]:
                print(f"  VIOLATION {each}")
            if len(line["violations"]) > MAX_SHOWN_VIOLATIONS:
                print(f"  … and {len(line['violations']) - MAX_SHOWN_VIOLATIONS} more")
        sys.stdout.flush()
        if options.plant and line["violations"]:
            print(f"the planted bug {options.plant!r} is found by seed {line['seed']}, the {runs}. run")
            lines.close()
            return 0
    if options.plant:
        print(f"the planted bug {options.plant!r} is not found in {runs} runs")
        return 1
    print(f"\n{runs} runs, {faults} faults, {time.perf_counter() - begun:.0f} s; messages: {dict(figures)}")
    _print_hits(hits)
    never = missing(hits)
    for each in never:
        print(f"  {'NEVER':>9}  {each}")
    print(f"{violations} violations")
    is_complete = runs == options.runs and (runs < ALL_HIT_FROM or not never)
    return int(violations > 0 or not is_complete)


def _lines(options: argparse.Namespace) -> Generator[dict[str, Any], None, None]:
    """Yield what each run said, from as many processes as there are jobs."""
    parts = [_start_part(options, number) for number in range(min(options.jobs, options.runs))]
    try:
        with selectors.DefaultSelector() as selector:
            for part in parts:
                assert part.stdout is not None
                selector.register(part.stdout, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    text = key.fileobj.readline()  # type: ignore[union-attr]
                    if text:
                        yield json.loads(text)
                    else:
                        selector.unregister(key.fileobj)
    finally:
        for part in parts:
            part.terminate()
            part.wait()


def _start_part(options: argparse.Namespace, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _part_command(options, options.seed + number, options.runs - number), stdout=subprocess.PIPE, text=True
    )


def _part_command(options: argparse.Namespace, seed: int, runs: int) -> list[str]:
    kind = (f"--plant={options.plant}", f"--lasting={options.lasting}")
    seeds = (f"--seed={seed}", f"--runs={runs}", f"--step={options.jobs}")
    return [sys.executable, "-m", "simulation.run", "--part", *kind, *seeds]


def _print_hits(hits: Counter[str]) -> None:
    for name, count in sorted(hits.items()):
        print(f"  {count:9d}  {name}")


if __name__ == "__main__":
    raise SystemExit(main())
