"""Which engines the next leases name.

    1. free engines (idle, and nobody holds a lease on them): first those of the worker that has the fewest of them,
       up to the worker's last one; of equal workers, that with more engines in use. So the engines of one worker fill
       up while other hosts stay idle and can be given back (Torruangwatthana et al. 2018, section II-C).
    2. shared engines, when no free one is left: first those that the fewest sources hold, then idle before busy.
       Credit arbitrates between the sources of one engine.

The answer's route says where a source without other leases sends now:

    ``engine``   the leases name at least one free engine
    ``queue``    they do not, or there are no leases

Pure: no I/O, no clock; equal candidates give equal answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

ROUTE_ENGINE = "engine"
ROUTE_QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that can be leased.

    Attributes:
        is_idle: No handler of it runs.
        leases: How many sources hold a lease on it.
        is_held: The asking source is one of them: it is not named again.
    """

    engine: str
    worker: str
    is_idle: bool
    leases: int = 0
    is_held: bool = False

    @property
    def is_free(self) -> bool:
        return self.is_idle and self.leases == 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The engines to lease, best first, and the route that the source is told."""

    engines: tuple[Candidate, ...]
    route: str


def choose(candidates: Iterable[Candidate], count: int) -> Choice:
    """Return up to ``count`` engines for one source."""
    known = tuple(candidates)
    free = Counter(candidate.worker for candidate in known if candidate.is_free)
    used = Counter(candidate.worker for candidate in known if not candidate.is_free)

    def rank(candidate: Candidate) -> tuple[bool, int, bool, int, int, str, str]:
        worker = candidate.worker
        is_shared = not candidate.is_free
        return (
            is_shared,
            candidate.leases,
            not candidate.is_idle,
            free[worker],
            -used[worker],
            worker,
            candidate.engine,
        )

    chosen = tuple(sorted((item for item in known if not item.is_held), key=rank)[: max(0, count)])
    return Choice(chosen, ROUTE_ENGINE if any(item.is_free for item in chosen) else ROUTE_QUEUE)
