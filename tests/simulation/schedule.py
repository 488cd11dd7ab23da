"""What a seed stands for: the cluster, its messages and their fates, and the faults with their times.

Everything is drawn here, before anything runs, from the seed alone; :mod:`simulation.faults` knows what each kind of
fault does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from harmonicio.core.stream import REFUSE, SHED, StreamDeclaration

KIB, MIB = 1024, 1024**2
#: What every schedule has at least.
MIN_ENGINES, MIN_CONNECTORS, MIN_MESSAGES, MIN_FAULTS = 3, 2, 200, 5


class Deed(StrEnum):
    """What a handler does to a message in its first executions; afterwards all is well."""

    WELL = "well"
    RAISES = "raises"
    REFUSES = "refuses"
    DIES = "dies"
    HANGS = "hangs"
    IS_NOT_KEPT = "is not kept"


FOR_EVER = 1_000_000
#: How many messages are sent once more under their id, or others under theirs.
AGAIN_SHARE = 0.03
#: How many faults begin while messages are sent; the others begin at any time.
BUSY_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Planned:
    """One message.

    Attributes:
        times: In how many executions the deed is done.
        at_s: When its source sends it, after the start.
        again: It is sent once more: ``same`` bytes, or ``other`` ones under its id; else empty.
        usurper: A source that sends other bytes under its id, too; None where there is none.
    """

    name: str
    source: int
    stream: str
    size_bytes: int
    priority: int
    at_s: float
    deed: Deed
    times: int
    service_s: float
    commit_s: float
    has_result: bool
    again: str = ""
    usurper: int | None = None

    @property
    def payload(self) -> bytes:
        return random.Random(self.name).randbytes(self.size_bytes)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its kind, when it begins, how long it lasts, and what it draws from."""

    kind: str
    at_s: float
    lasts_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run."""

    seed: int
    workers: int
    max_engines: int
    streams: tuple[StreamDeclaration, ...]
    sources: int
    messages: tuple[Planned, ...]
    faults: tuple[Fault, ...]
    backlog_bytes: int
    connector_bytes: int
    payload_budget_bytes: int
    reservation_margin_s: float
    lease_term_s: float
    orphan_after_s: float
    engine_start_s: tuple[float, float]
    preemption: float
    sync_s: tuple[float, float]
    awaits_results: bool
    faults_until_s: float

    def of_source(self, number: int) -> list[Planned]:
        """Return what a source sends, in this order."""
        own = [each for each in self.messages if number in (each.source, each.usurper)]
        return sorted(own, key=lambda each: each.at_s)


def draw(seed: int, kinds: dict[str, float], *, faults: bool = True) -> Schedule:
    """Return the schedule of a seed.

    Args:
        kinds: The kinds of faults with their weights.
    """
    chance = random.Random(f"schedule {seed}")
    workers = chance.choice((2, 2, 3))
    engines = chance.randint(MIN_ENGINES, 5)
    streams = _draw_streams(chance, engines)
    sources = chance.randint(MIN_CONNECTORS, 4)
    spread_s = chance.choice((2.0, 10.0, 30.0))
    messages = _draw_messages(chance, seed, streams, sources, spread_s)
    faults_until_s = chance.uniform(20.0, 60.0)
    return Schedule(
        seed=seed,
        workers=workers,
        max_engines=max(2, -(-engines // workers) + chance.randint(0, 2)),
        streams=streams,
        sources=sources,
        messages=messages,
        faults=_draw_faults(chance, kinds, spread_s + 3.0, faults_until_s) if faults and kinds else (),
        backlog_bytes=chance.choice((2 * MIB, 3 * MIB, 64 * MIB)),
        connector_bytes=chance.choice((64 * KIB, MIB, 64 * MIB)),
        payload_budget_bytes=chance.choice((256 * KIB, MIB, 64 * MIB)),
        reservation_margin_s=chance.choice((2.0, 2.0, 5.0, 30.0)),
        lease_term_s=chance.choice((3.0, 10.0, 60.0)),
        orphan_after_s=chance.choice((5.0, 30.0, 120.0)),
        engine_start_s=(0.05, chance.choice((0.2, 2.0))),
        preemption=chance.choice((0.0, 0.0, 0.02, 0.2)),
        sync_s=chance.choice(((0.0005, 0.004), (0.005, 0.1))),
        awaits_results=chance.random() < 0.7,
        faults_until_s=faults_until_s,
    )


def _draw_streams(chance: random.Random, engines: int) -> tuple[StreamDeclaration, ...]:
    first = StreamDeclaration(
        name="plates",
        handler="plan.py",
        engines=engines,
        concurrency=chance.choice((1, 1, 2, 4)),
        timeout_s=chance.choice((0.5, 1.0, 3.0, 8.0)),
        max_attempts=chance.choice((1, 3, 3, 5)),
        max_crashes=chance.choice((1, 2, 3)),
        max_message_bytes=chance.choice((150 * KIB, 64 * MIB)),
        memory_payload_max_bytes=chance.choice((32 * KIB, 64 * MIB)),
        prefetch_s=chance.choice((0.0, 0.1, 1.0)),
        when_full=chance.choice((REFUSE, REFUSE, SHED)),
    )
    if chance.random() < 0.7:
        return (first,)
    second = StreamDeclaration(
        name="ordered",
        handler="plan.py",
        engines=1,
        timeout_s=chance.choice((1.0, 3.0)),
        max_attempts=chance.choice((1, 3)),
        max_crashes=chance.choice((1, 3)),
        ordered=True,
    )
    return first, second


def _draw_messages(
    chance: random.Random, seed: int, streams: tuple[StreamDeclaration, ...], sources: int, spread_s: float
) -> tuple[Planned, ...]:
    count = MIN_MESSAGES + chance.randrange(40)
    service_s = chance.choice((0.001, 0.02, 0.1))
    return tuple(_draw_message(chance, seed, number, sources, streams, spread_s, service_s) for number in range(count))


def _draw_message(
    chance: random.Random,
    seed: int,
    number: int,
    sources: int,
    streams: tuple[StreamDeclaration, ...],
    spread_s: float,
    service_s: float,
) -> Planned:
    source = number % sources
    deed, times = Deed.WELL, FOR_EVER
    draw = chance.random()
    if draw < 0.02:
        deed = Deed.REFUSES
    elif draw < 0.05:
        deed, times = Deed.RAISES, chance.choice((1, 2, FOR_EVER))
    elif draw < 0.065:
        deed, times = Deed.DIES, chance.choice((1, 2, FOR_EVER))
    elif draw < 0.07:
        deed, times = Deed.HANGS, chance.choice((1, FOR_EVER))
    elif draw < 0.08:
        deed, times = Deed.IS_NOT_KEPT, chance.choice((1, 2, 4))
    size_bytes = chance.choice((0, 1, 100, 1_000, 5_000, 20_000))
    if chance.random() < 0.1:
        size_bytes = chance.choice((64 * KIB, 64 * KIB + 1, 100_000, 200_000))
    # Every source serves one stream; ids are of both kinds: 32 hex digits, and texts of the source's own.
    name = f"{seed & 0xFFFFFFFF:016x}{number:016x}" if source % 2 else f"image {seed}/{number}"
    again = chance.choice(("same", "other")) if chance.random() < AGAIN_SHARE else ""
    rivals = [each for each in range(sources) if each != source and each % len(streams) == source % len(streams)]
    return Planned(
        name=name,
        source=source,
        stream=streams[source % len(streams)].name,
        size_bytes=size_bytes,
        priority=chance.choice((0, 0, 0, -5, 7)),
        at_s=chance.uniform(0.0, spread_s),
        deed=deed,
        times=times,
        service_s=chance.expovariate(1 / service_s),
        commit_s=chance.choice((0.0, 0.0005, 0.01)),
        has_result=chance.random() < 0.5,
        again=again,
        usurper=chance.choice(rivals) if rivals and chance.random() < AGAIN_SHARE / 2 else None,
    )


def _draw_faults(
    chance: random.Random, kinds: dict[str, float], busy_until_s: float, until_s: float
) -> tuple[Fault, ...]:
    count = MIN_FAULTS + chance.randrange(6)
    names, weights = list(kinds), list(kinds.values())
    return tuple(
        Fault(
            chance.choices(names, weights)[0],
            chance.uniform(0.5, busy_until_s if chance.random() < BUSY_SHARE else until_s),
            chance.choice((0.05, 0.5, 2.0, 8.0, 25.0, 45.0)) * chance.uniform(0.5, 1.5),
            chance.randrange(2**32),
        )
        for _ in range(count)
    )
