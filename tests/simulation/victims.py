"""Whom faults strike: each chooses among what is there when it begins, by its own seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

from simulation.administrators import NobodyThere
from simulation.loop import Host

#: What ends a fault; what has no end has none.
End = Callable[[], None] | None


def one_of(chance: random.Random, among: list[Any]) -> Any:
    if not among:
        raise NobodyThere
    return chance.choice(among)


def an_engine(world: Any, chance: random.Random, names: Collection[str] | None = None) -> tuple[Any, Any]:
    """Return the worker's host and the handle of an engine that lives; where names are given, one of these."""
    living = [(worker, handle) for worker in world.workers for handle in worker.running()]
    return one_of(chance, [each for each in living if names is None or each[1].spec.engine in names])


def two_hosts(world: Any, chance: random.Random) -> tuple[Host, Host]:
    """Return two hosts that have to do with each other."""
    kinds = {
        "m": [world.master.host],
        "w": [each.host for each in world.workers],
        "s": [each.host for each in world.sources],
    }
    one, other = chance.choice(("mw", "ms", "ws"))
    pair = [chance.choice(kinds[one]), chance.choice(kinds[other])]
    chance.shuffle(pair)
    return pair[0], pair[1]


def one_running(chance: random.Random, among: list[Any]) -> Any:
    return one_of(chance, [each for each in among if each.is_running])
