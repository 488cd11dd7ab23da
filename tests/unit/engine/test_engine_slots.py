"""Slots that are taken and given back in one step, where nobody waits: who does wait is not forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harmonicio.engine.slots import Slot, Slots

busy: list[str] = []


@pytest.fixture
def slots() -> Iterator[Slots]:
    busy.clear()
    slots = Slots(2, prefetch_s=0.1, budget_bytes=10**6, on_busy=lambda: busy.append("busy"))
    slots.start()
    yield slots
    slots.close()


class Suspect:
    """Waits for all slots."""

    slot: Slot | None = None

    def granted(self, slot: Slot) -> None:
        self.slot = slot

    def refused(self) -> None:
        raise AssertionError("There will be a slot.")


def taken(slots: Slots) -> Slot:
    slot = slots.acquire(0.0, is_backlog=False)
    assert slot is not None
    return slot


def test_a_suspect_that_waits_has_the_engine_when_the_last_slot_is_given_back(slots: Slots) -> None:
    first, second, suspect = taken(slots), taken(slots), Suspect()
    slots.submit(suspect, 0.0, is_backlog=True, is_suspect=True)
    assert slots.is_wanted(is_owed=True)
    slots.release(first, 1, 0.0)
    assert suspect.slot is None
    slots.release(second, 1, 0.0)
    assert suspect.slot is not None
    assert not slots.is_wanted(is_owed=True)
    slots.release(suspect.slot, 1, 0.0)
    assert slots.in_use == 0


def test_who_drains_gives_no_slot_although_one_is_free(slots: Slots) -> None:
    slots.release(taken(slots), 1, 0.0)
    slots.drain()
    assert slots.acquire(0.0, is_backlog=False) is None


def test_who_was_said_to_be_idle_says_that_it_is_not_any_more(slots: Slots) -> None:
    slots.release(taken(slots), 1, 0.0)
    slots.is_idle()
    assert slots.is_idle()
    busy.clear()
    slot = taken(slots)
    assert busy == ["busy"]
    slots.release(slot, 1, 0.0)
    taken(slots)
    assert busy == ["busy"], "it is said once"
