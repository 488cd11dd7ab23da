"""Intake while the store cannot take messages: it stops, and is tried again by itself."""

from __future__ import annotations

from collections.abc import Callable

from benches.backlog import STORED, Desk, HeldStore
from harmonicio.core.errors import StorageError


def test_while_the_disk_takes_nothing_no_more_is_called_for_and_each_try_comes_later(
    wait_until: Callable[..., object],
) -> None:
    store = HeldStore()
    desk = Desk(store)
    told: list[float] = []
    desk.backlog.set_listeners(on_room=lambda: told.append(desk.clock.monotonic()))
    for number, pause_s in enumerate((1.0, 2.0, 4.0, 8.0, 8.0)):
        assert desk.backlog.can_take()
        desk.put(f"m{number}")
        store.release(StorageError("The disk is full."))
        assert not desk.backlog.can_take()
        desk.clock.advance(pause_s - 0.1)
        desk.backlog.tick()
        assert not desk.backlog.can_take() and len(told) == number
        desk.clock.advance(0.2)
        desk.backlog.tick()
        wait_until(lambda number=number: len(told) == number + 1)
    desk.put("m9")
    store.release()
    assert desk.answers[-1] == STORED
    desk.put("m10")
    store.release(StorageError("The disk is full."))
    desk.clock.advance(1.1)
    desk.backlog.tick()
    assert desk.backlog.can_take()
    desk.backlog.close()
