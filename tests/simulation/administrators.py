"""What people do while a cluster runs: they scale and declare, replay and purge dead letters, change priorities.

Each of them asks a few times if the master does not answer, so that a request may be done twice. What becomes of dead
letters the auditor hears from the store, which knows exactly which of them were meant.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harmonicio.control.backlog_messages import DeadChoice
from harmonicio.core.errors import HarmonicIOError
from harmonicio.master.backlog.entry import State
from simulation.audit import entries_of
from simulation.loop import sleep

End = Callable[[], None] | None
TRIES = 5
LISTED = 20


class NobodyThere(Exception):
    """There is nobody whom it could concern."""


def _ask(world: Any, ask: Callable[[], object]) -> None:
    """Have an administrator do something, a few times if the master does not answer."""

    def act() -> None:
        for _ in range(TRIES):
            if world.faults.are_over:
                return
            try:
                ask()
                return
            except HarmonicIOError:
                sleep(1.0)

    world.admin.spawn("act", act)


def scale(world: Any, chance: random.Random, lasts_s: float) -> End:
    stream = world.plan.streams[0]
    count = chance.choice((0, 1, 2, stream.engines + 2))
    _ask(world, lambda: world.admin_client.scale_stream(stream.name, count))
    return lambda: _ask(world, lambda: world.admin_client.scale_stream(stream.name, stream.engines))


def declare_anew(world: Any, chance: random.Random, lasts_s: float) -> End:
    stream = chance.choice(world.plan.streams)
    changed = replace(stream, timeout_s=stream.timeout_s + chance.choice((0.5, 2.0)))
    _ask(world, lambda: world.admin_client.declare_stream(changed))
    return lambda: _ask(world, lambda: world.admin_client.declare_stream(stream))


def revoke(world: Any, chance: random.Random, lasts_s: float) -> End:
    _ask(world, world.admin_client.revoke_all_leases)
    return None


def _stream_with(world: Any, chance: random.Random, *states: State) -> str:
    """Return a stream with messages in one of these states."""
    if not world.master.is_running or world.master.service is None:
        raise NobodyThere
    streams = sorted({entry.stream for entry in entries_of(world) if entry.state in states})
    if not streams:
        raise NobodyThere
    return chance.choice(streams)


def prioritise(world: Any, chance: random.Random, lasts_s: float) -> End:
    """What goes next, or last, gets another priority."""
    stream = _stream_with(world, chance, State.READY, State.DELAYED)
    priority = chance.choice((-9, 0, 9))
    client = world.admin_client

    def ask() -> None:
        view = client.stream_backlog(stream, LISTED)
        listed = [each.message for each in (*view.next, *view.oldest)]
        client.prioritise(stream, chance.sample(listed, chance.randint(0, len(listed))), priority)

    _ask(world, ask)
    return None


def replay(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _change_dead(world, chance, world.admin_client.replay_dead)


def purge(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _change_dead(world, chance, world.admin_client.purge_dead)


def _change_dead(world: Any, chance: random.Random, change: Callable[[str, DeadChoice], Any]) -> End:
    """Choose dead letters by their names, by a type of error, or all of them, and go through them in steps."""
    stream = _stream_with(world, chance, State.DEAD)
    how = chance.choice(("names", "type", "all"))
    client = world.admin_client

    def ask() -> None:
        letters = client.dead_letters(stream, LISTED).letters
        if not letters:
            return
        if how == "names":
            names = chance.sample([each.message for each in letters], chance.randint(1, len(letters)))
            choice = DeadChoice(messages=(*names, "nobody"))
        else:
            choice = DeadChoice(all=True) if how == "all" else DeadChoice(error_type=chance.choice(letters).error_type)
        while True:
            following = change(stream, choice).next
            if not following or choice.messages:
                return
            choice = replace(choice, after=following)

    _ask(world, ask)
    return None
