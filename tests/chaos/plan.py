"""The fault plan: which fault strikes what, when and for how long. Pure; written to a file before the run begins.

Faults overlap, but never two on the same thing: a kind says what it occupies, from its start until the thing has had
:data:`RECOVERY_S` to come back. In the last part of a plan (:data:`LIVES_FROM`) some processes are left alive, so that
their memory and files can be watched for long enough; they are cut off, frozen and starved like before. Early in that
part all hosts of engines are frozen, so that the backlog fills, and then the master, so that all that was sent to it
comes at once (:data:`PEAK_AFTER_S`): what has a bound reaches it early in a life, else its first peak later on would
look like a leak.

The same seed and length make the same plan. What a fault meets (which engine runs just then, which message it has) is
up to the cluster: a plan can be repeated, a run cannot.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.load import STREAMS

#: The first and the last fault keep this distance from the ends of the plan.
LEAD_IN_S, LEAD_OUT_S = 3.0, 2.0
RECOVERY_S = 2.0
#: From this part of the plan on the processes of :data:`LONG_LIVED` are not ended any more.
LIVES_FROM = 0.35
LONG_LIVED = ("master", "w1")
#: A long freeze exceeds the reservation of a message; there are few of these, and none in a short plan.
LONG_FREEZE_S = (42.0, 50.0)
#: None begins after this part of the plan: what is held for a frozen host is let go of while growth is still measured.
LONG_FREEZE_UNTIL = 0.7
LONG_PLAN_S = 240.0
#: The peak comes so long after the last end of a long-lived process, in its warm-up; how long the hosts of engines are
#: frozen, and then the master.
PEAK_AFTER_S, PEAK_S, MASTER_PEAK_S = 30.0, 15.0, 8.0

WORKERS = ("w1", "w2")
HOSTS = ("master", "w1", "w2", "sources")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: One of :data:`KINDS`.
        target: The process, host, disk or stream that it strikes.
        start_s: Seconds after the load began.
        duration_s: How long it lasts; of a kill, until the process is started again.
        seed: Decides what the plan leaves open, such as which engine of a host.
    """

    kind: str
    target: str
    start_s: float
    duration_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how often it is drawn, what it strikes, for how long, and what it occupies meanwhile."""

    weight: float
    targets: tuple[str, ...]
    duration_s: tuple[float, float]
    is_end: bool = False
    occupies: tuple[str, ...] = ("{target}",)

    def occupied(self, target: str) -> frozenset[str]:
        return frozenset(each.format(target=target) for each in self.occupies)


_NETWORK = ("network of {target}",)
_PROXIES = ("proxies of {target}",)
KINDS: dict[str, Kind] = {
    "kill engine": Kind(3, WORKERS, (0.0, 0.0), occupies=("engines of {target}",)),
    "kill worker": Kind(1, WORKERS, (0.2, 8.0), is_end=True),
    "kill master": Kind(2, ("master",), (0.2, 4.0), is_end=True),
    "kill source": Kind(2, ("s3",), (0.2, 3.0), is_end=True),
    "crash point": Kind(2, ("master",), (12.0, 12.0), is_end=True),
    "freeze engine": Kind(2, WORKERS, (1.0, 15.0), occupies=("engines of {target}",)),
    "freeze worker": Kind(1, WORKERS, (1.0, 12.0)),
    "freeze master": Kind(1, ("master",), (1.0, 8.0)),
    "freeze source": Kind(1, ("s1", "s2", "s3"), (1.0, 8.0)),
    "freeze host": Kind(1, WORKERS, (2.0, 15.0), occupies=("{target}", "engines of {target}")),
    "drain engine": Kind(1, WORKERS, (0.0, 0.0), occupies=("engines of {target}",)),
    "drain worker": Kind(1, WORKERS, (0.2, 3.0), is_end=True, occupies=("{target}", "engines of {target}")),
    "drain master": Kind(1, ("master",), (0.2, 3.0), is_end=True),
    "drain source": Kind(1, ("s3",), (0.2, 3.0), is_end=True),
    "reset connections": Kind(2, HOSTS, (0.0, 0.0), occupies=_NETWORK),
    "partition": Kind(2, HOSTS, (1.0, 12.0), occupies=_NETWORK),
    "one-way partition": Kind(2, HOSTS, (1.0, 12.0), occupies=_NETWORK),
    "packet loss": Kind(1, HOSTS, (2.0, 10.0), occupies=_NETWORK),
    "large packets lost": Kind(1, HOSTS, (2.0, 10.0), occupies=_NETWORK),
    "slow network": Kind(1, HOSTS, (2.0, 10.0), occupies=_NETWORK),
    "cut connections": Kind(1, ("s2",), (0.0, 0.0), occupies=_PROXIES),
    "half-open connections": Kind(1, ("s2",), (1.0, 12.0), occupies=_PROXIES),
    "late bytes": Kind(1, ("s2",), (2.0, 10.0), occupies=_PROXIES),
    "few bytes": Kind(1, ("s2",), (2.0, 10.0), occupies=_PROXIES),
    "full disk of the master": Kind(2, ("master",), (1.0, 6.0), occupies=("disk of {target}",)),
    "full disk of the tiers": Kind(1, ("tiers",), (0.5, 3.0), occupies=("disk of {target}",)),
    "scale": Kind(1, STREAMS, (1.0, 15.0), occupies=("stream {target}",)),
    "declare anew": Kind(1, STREAMS, (0.0, 0.0), occupies=("stream {target}",)),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run shall go through; ``faults`` are in the order of their start."""

    seed: int
    duration_s: float
    faults: tuple[Fault, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan.

        Raises:
            ValueError: it names a kind of fault that does not exist.
        """
        plain = json.loads(path.read_text())
        faults = tuple(Fault(**each) for each in plain["faults"])
        if unknown := {each.kind for each in faults} - KINDS.keys():
            raise ValueError(f"There are no faults {', '.join(sorted(unknown))}. Known are {', '.join(KINDS)}.")
        return cls(plain["seed"], plain["duration_s"], faults)


def make_plan(seed: int, duration_s: float, *, every_s: float = 4.0) -> Plan:
    """Return the plan of a seed: one fault every ``every_s`` seconds on average, each kind as early as it fits."""
    chance = random.Random(seed)
    number = max(1, int((duration_s - LEAD_IN_S - LEAD_OUT_S) / every_s))
    times = [LEAD_IN_S + (each + chance.random()) * every_s for each in range(number)]
    kinds = _order_of_kinds(chance, number)
    faults = _peak(duration_s)
    for start_s in times:
        for position, kind in enumerate(kinds):
            if fault := _fitting(kind, start_s, duration_s, faults, chance):
                faults.append(fault)
                del kinds[position]
                break
    return Plan(seed, duration_s, tuple(sorted(faults, key=lambda each: each.start_s)))


def _peak(duration_s: float) -> list[Fault]:
    """Return the faults of a long plan that let everything fill to its bound."""
    if duration_s < LONG_PLAN_S:
        return []
    start_s = LIVES_FROM * duration_s + PEAK_AFTER_S
    hosts = [Fault("freeze host", host, start_s, PEAK_S, 0) for host in WORKERS]
    return [*hosts, Fault("freeze master", "master", start_s + PEAK_S + RECOVERY_S, MASTER_PEAK_S, 0)]


def _order_of_kinds(chance: random.Random, number: int) -> list[str]:
    """Return kinds by weight, more than are needed; each kind is there once before any comes again."""
    first = chance.sample(list(KINDS), len(KINDS))
    weights = [each.weight for each in KINDS.values()]
    return first + chance.choices(list(KINDS), weights, k=3 * number)


def _fitting(
    name: str, start_s: float, duration_s: float, faults: Sequence[Fault], chance: random.Random
) -> Fault | None:
    """Return a fault of this kind that starts then, unless all it could strike is occupied or must live."""
    kind = KINDS[name]
    lasts_s = chance.uniform(*kind.duration_s)
    if name == "freeze host" and duration_s >= LONG_PLAN_S and start_s < LONG_FREEZE_UNTIL * duration_s:
        has_long = any(each.duration_s >= LONG_FREEZE_S[0] for each in faults)
        if not has_long or chance.random() < 0.3:
            lasts_s = chance.uniform(*LONG_FREEZE_S)
    if start_s + lasts_s > duration_s - LEAD_OUT_S:
        return None
    taken = _taken(faults, start_s, start_s + lasts_s)
    must_live = LONG_LIVED if kind.is_end and start_s >= LIVES_FROM * duration_s else ()
    free = [each for each in kind.targets if each not in must_live and not kind.occupied(each) & taken]
    if not free:
        return None
    return Fault(name, chance.choice(free), round(start_s, 3), round(lasts_s, 3), chance.randrange(2**31))


def _taken(faults: Sequence[Fault], from_s: float, to_s: float) -> set[str]:
    """Return what other faults occupy at any time between."""
    return {
        thing
        for each in faults
        if from_s < each.start_s + each.duration_s + RECOVERY_S and each.start_s < to_s + RECOVERY_S
        for thing in KINDS[each.kind].occupied(each.target)
    }
