"""Which worker runs how many engines of each stream.

    1. keep      what was placed before stays where it is, as far as the stream's count and the worker's room allow
    2. adopt     engines that a worker already runs (it came back, or the master was restarted) are kept next
    3. add       missing engines, one of each stream in turn, go to the first worker in the policy's order that has room
                 and can start engines of their kind

When a stream shrinks, step 1 keeps the engines of the fullest workers, so that the emptiest ones run dry. Nothing that
runs is moved for another stream's sake: what finds no room is counted as unplaced and waits.

Policies (the order of workers in step 3, and the name for settings):

    ``packed``   first fit, the fullest worker that still has room first: idle hosts can be given back
    ``spread``   the emptiest worker first

Pure: no I/O, no clock; equal input gives equal output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harmonicio.core.errors import ConfigurationError

PACKED = "packed"
SPREAD = "spread"
POLICIES = (PACKED, SPREAD)


@dataclass(frozen=True, slots=True)
class Host:
    """A worker that can run engines.

    Attributes:
        max_engines: Room for engines of all streams together.
        placed: Engines per stream that were placed here last; ``None`` when nothing is known of that.
        running: Engines per stream that work or start here now.
        streams: Those whose engines this worker can start; ``None``: all.
    """

    worker: str
    max_engines: int
    placed: Mapping[str, int] | None = None
    running: Mapping[str, int] = field(default_factory=dict)
    streams: frozenset[str] | None = None

    def can_start(self, stream: str) -> bool:
        return self.streams is None or stream in self.streams

    @property
    def load(self) -> int:
        """How many engines this worker counts for, before anything is decided."""
        return sum((self.running if self.placed is None else self.placed).values())


@dataclass(frozen=True, slots=True)
class Placement:
    """Engines per worker and stream (zeros left out), and engines per stream that found no room."""

    placed: Mapping[str, Mapping[str, int]]
    unplaced: Mapping[str, int]


def check_policy(policy: str) -> str:
    """Return the name of a placement policy.

    Raises:
        ConfigurationError: there is no policy of this name.
    """
    if policy not in POLICIES:
        raise ConfigurationError(f"There is no placement policy {policy!r}.", hint=f"Use one of {', '.join(POLICIES)}.")
    return policy


def place(hosts: Sequence[Host], wanted: Mapping[str, int], policy: str = PACKED) -> Placement:
    """Return which worker shall run how many engines.

    Args:
        hosts: The workers that are present, each once.
        wanted: Engines wanted per stream.
        policy: One of ``POLICIES``.
    """
    plan = _Plan(hosts, wanted)
    fullest_first = sorted(hosts, key=lambda host: (-host.load, host.worker))
    for host in fullest_first:
        plan.keep(host, host.placed or {})
    for host in fullest_first:
        if host.placed is None:
            plan.keep(host, host.running)
    plan.add_missing(is_packed=policy == PACKED)
    return Placement(
        {
            worker: {stream: count for stream, count in sorted(counts.items()) if count}
            for worker, counts in plan.placed.items()
        },
        {stream: count for stream, count in plan.missing.items() if count},
    )


class _Plan:
    """A placement in the making."""

    def __init__(self, hosts: Sequence[Host], wanted: Mapping[str, int]) -> None:
        self.hosts = {host.worker: host for host in hosts}
        self.missing = {stream: max(0, wanted[stream]) for stream in sorted(wanted)}
        self.room = {host.worker: host.max_engines for host in sorted(hosts, key=lambda host: host.worker)}
        self.placed: dict[str, Counter[str]] = {worker: Counter() for worker in self.room}

    def keep(self, host: Host, counts: Mapping[str, int]) -> None:
        for stream in sorted(counts):
            self._take(host.worker, stream, counts[stream])

    def add_missing(self, *, is_packed: bool) -> None:
        waiting = [stream for stream, count in self.missing.items() if count]
        while waiting:
            for stream in list(waiting):
                worker = self._next_worker(stream, is_packed)
                if worker is not None:
                    self._take(worker, stream, 1)
                if worker is None or not self.missing[stream]:
                    waiting.remove(stream)

    def _next_worker(self, stream: str, is_packed: bool) -> str | None:
        with_room = [name for name, room in self.room.items() if room > 0 and self.hosts[name].can_start(stream)]
        sign = -1 if is_packed else 1
        return min(with_room, key=lambda worker: (sign * self.placed[worker].total(), worker), default=None)

    def _take(self, worker: str, stream: str, count: int) -> None:
        if not self.hosts[worker].can_start(stream):
            return
        taken = min(count, self.missing.get(stream, 0), self.room[worker])
        if taken > 0:
            self.placed[worker][stream] += taken
            self.missing[stream] -= taken
            self.room[worker] -= taken
