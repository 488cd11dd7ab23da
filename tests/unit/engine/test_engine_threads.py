"""An engine on a host that has no thread to spare: who has a slot runs, and what waits to be sent is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from benches.no_threads import no_threads
from harmonicio.engine.slots import Slot, Slots


@pytest.fixture
def slots() -> Iterator[Slots]:
    slots = Slots(1, prefetch_s=0.1, budget_bytes=10**6)
    slots.start()
    yield slots
    slots.close()


class Task:
    """Waits for a slot and runs in the pool, as a message does."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.has_run = threading.Event()

    def granted(self, slot: Slot) -> None:
        self._slots.run_soon(self._run, slot)

    def refused(self) -> None:
        raise AssertionError("There will be a slot.")

    def _run(self, slot: Slot) -> None:
        self.has_run.set()
        self._slots.release(slot, 1, 0.0)


def test_who_gives_a_slot_back_goes_on_and_who_waits_for_it_runs(slots: Slots) -> None:
    with no_threads("engine-handler"):
        slot = slots.acquire(0.0, is_backlog=False)
        assert slot is not None
        task = Task(slots)
        slots.submit(task, 0.0, is_backlog=False)
        slots.release(slot, 1, 0.0)
        assert task.has_run.wait(10)


def test_what_may_wait_for_a_peer_is_done(slots: Slots) -> None:
    done = [threading.Event() for _ in range(3)]
    with no_threads("engine-flush"):
        for each in done:
            slots.flusher.start_soon(each.set)
        assert all(each.wait(10) for each in done)
