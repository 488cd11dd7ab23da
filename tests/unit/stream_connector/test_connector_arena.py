"""The slots of a connector's arena: who holds them, and when they are free again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.stream_connector.allocation import Allocation
from harmonicio.stream_connector.arena_slots import ArenaSlot, ArenaSlots, Transmissions
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import unix
from harmonicio.wire.events import Held, OutcomeRange, OutcomesReceived, Released
from harmonicio.wire.outcomes import DONE

PAGE = 4096
_OURS = os.pidfd_open(os.getpid())
TELLS_PROCESSES_APART = unix.identity_of(_OURS) is not None
os.close(_OURS)


def outcomes(first: int, last: int) -> OutcomesReceived:
    return OutcomesReceived((OutcomeRange(first, last, DONE),))


def under_way(transmissions: Transmissions, count: int) -> None:
    for sequence in range(count):
        slot = transmissions.copy(b"x" * 5000, 5000)
        assert slot is not None
        transmissions.place(sequence, slot)


def process_that_sleeps() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


# ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_made_before_it_is_needed_nor_after_the_end() -> None:
    before = set(os.listdir("/proc/self/fd"))
    slots = ArenaSlots(2**20, 2**30)
    assert set(os.listdir("/proc/self/fd")) == before
    assert slots.take(100) is not None
    slots.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert slots.take(100) is None
    assert not Allocation(slots, 100).is_shared


@pytest.mark.parametrize("max_bytes", [0, 100])
def test_an_arena_of_less_than_a_page_is_none(max_bytes: int) -> None:
    slots = ArenaSlots(max_bytes, 2**30)
    assert slots.arena() is None
    assert slots.take(1) is None


def test_an_arena_has_room_for_the_byte_budget_and_for_what_is_written_meanwhile() -> None:
    slots = ArenaSlots(2**28, 10 * 2**20)
    arena = slots.arena()
    assert arena is not None
    assert arena.size_bytes == 21 * 2**20
    slots.close()


def test_memory_that_cannot_be_had_is_said_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    slots = ArenaSlots(2**20, 2**30)
    assert slots.take(10) is None
    assert slots.take(10) is None
    assert len(caplog.records) == 1
    assert "Too many open files" in caplog.text


def test_a_slot_is_free_when_nobody_holds_it(slots: ArenaSlots) -> None:
    one = slots.take(5000)
    other = one
    assert slots.used_bytes == 2 * PAGE
    del one
    assert slots.used_bytes == 2 * PAGE
    del other
    assert slots.used_bytes == 0


@pytest.mark.parametrize("is_written_in_place", [True, False])
def test_what_was_let_go_of_last_is_taken_next(slots: ArenaSlots, is_written_in_place: bool) -> None:
    def take() -> ArenaSlot:
        slot = slots.take(5000, is_written_in_place=is_written_in_place)
        assert slot is not None
        return slot

    held = [take() for _ in range(3)]
    offsets = [slot.offset for slot in held]
    held.clear()
    again = [take() for _ in range(3)]
    assert sorted(slot.offset for slot in again) == offsets
    last = again.pop(1).offset
    assert take().offset == last
    other = slots.take(5000, is_written_in_place=not is_written_in_place)
    assert other is not None
    assert (other.piece is None) == is_written_in_place
    assert slots.used_bytes == 3 * 2 * PAGE


def test_of_the_same_capacity_a_slot_has_as_many_bytes_as_are_wanted(slots: ArenaSlots) -> None:
    for size_bytes in (100, 200, 100):
        slot = slots.take(size_bytes, is_written_in_place=True)
        assert slot is not None
        assert slot.piece is not None
        assert len(slot.piece) == size_bytes
        del slot
    assert slots.used_bytes == 0


def test_the_memory_goes_with_the_last_slot_also_when_that_is_let_go_of_after_the_end() -> None:
    before = set(os.listdir("/proc/self/fd"))
    slots = ArenaSlots(2**20, 2**30)
    early, late = Allocation(slots, 100), Allocation(slots, 100)
    early.release()
    slots.close()
    assert set(os.listdir("/proc/self/fd")) != before, "a mapping keeps a descriptor"
    late.release()
    del early, late
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_slot_may_be_let_go_of_in_a_cycle_at_any_moment(slots: ArenaSlots) -> None:
    cycle: list[Any] = [slots.take(100)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert slots.used_bytes == 0


@pytest.mark.parametrize("is_written_in_place", [True, False])
def test_who_wants_memory_beside_the_end_is_given_none(is_written_in_place: bool) -> None:
    errors: list[BaseException] = []

    def use(slots: ArenaSlots) -> None:
        try:
            while (
                slots.take(PAGE, is_written_in_place=True) if is_written_in_place else slots.copy(b"x", 1)
            ) is not None:
                continue
        except BaseException as error:  # noqa: BLE001  the test says it
            errors.append(error)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            slots = ArenaSlots(2**20, 2**30)
            users = [threading.Thread(target=use, args=(slots,)) for _ in range(2)]
            for each in users:
                each.start()
            slots.close()
            for each in users:
                each.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert errors == []


class Reader:
    """Reads what it was given, a few bytes at a time; where that ends too early it raises."""

    def __init__(self, content: bytes, size_bytes: int) -> None:
        self.content = content
        self.size_bytes = size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        piece = self.content[offset : offset + min(7, len(buffer))]
        if not piece:
            raise InvalidInput("There is no more.")
        buffer[: len(piece)] = piece
        return len(piece)


def test_what_is_read_lies_in_a_slot_of_its_own_and_what_cannot_be_read_in_none(slots: ArenaSlots) -> None:
    content = bytes(range(250)) * 20
    slot = slots.read(Reader(content, 5000))
    arena = slots.arena()
    assert slot is not None
    assert arena is not None
    piece = arena.piece(slot.offset, 5000)
    assert piece == content
    assert arena.is_free(piece)
    with pytest.raises(InvalidInput, match="no more"):
        slots.read(Reader(content, 5001))
    assert slots.read(Reader(content, 2**30)) is None, "there is not as much room"
    del slot
    assert slots.used_bytes == 0
    slots.close()
    assert slots.read(Reader(content, 5000)) is None


def test_what_is_copied_after_the_end_is_not_there() -> None:
    slots = ArenaSlots(2**20, 2**30)
    arena = slots.arena()
    assert arena is not None
    assert arena.write(0, b"here")
    slots.close()
    assert not arena.write(0, b"here")
    assert slots.copy(b"here", 4) is None


# ── transmissions ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_outcome_releases_a_slot_unless_it_was_said_to_be_held(slots: ArenaSlots) -> None:
    transmissions = Transmissions(slots, None)
    under_way(transmissions, 5)
    assert transmissions.hear(Held((1, 3)))
    assert not transmissions.hear(outcomes(0, 3))
    assert slots.used_bytes == 3 * 2 * PAGE
    assert transmissions.hear(Released((3,)))
    assert slots.used_bytes == 2 * 2 * PAGE
    transmissions.hear(outcomes(4, 4))
    transmissions.hear(Released((1,)))
    assert slots.used_bytes == 0
    transmissions.end()


def test_what_an_engine_says_of_other_messages_changes_nothing(slots: ArenaSlots) -> None:
    transmissions = Transmissions(slots, None)
    under_way(transmissions, 2)
    transmissions.hear(Held((7, 2**62)))
    transmissions.hear(Released((0, 1, 7)))
    assert slots.used_bytes == 2 * 2 * PAGE
    transmissions.hear(outcomes(1, 2**62))
    assert slots.used_bytes == 2 * PAGE
    transmissions.hear(outcomes(0, 0))
    transmissions.end()


def test_answers_beyond_what_was_sent_are_not_gone_through(slots: ArenaSlots) -> None:
    transmissions = Transmissions(slots, None)
    under_way(transmissions, 100)

    class Slots(dict[int, ArenaSlot]):
        looked_at = 0

        def __iter__(self) -> Iterator[int]:
            for each in super().__iter__():
                self.looked_at += 1
                yield each

        def pop(self, *of: Any) -> Any:
            self.looked_at += 1
            return super().pop(*of)

    watched = transmissions._under_way = Slots(transmissions._under_way)
    transmissions.hear(OutcomesReceived(tuple(OutcomeRange(2**40, 2**62, DONE) for _ in range(5000))))
    assert watched.looked_at == 0
    transmissions.hear(OutcomesReceived(tuple(OutcomeRange(0, 49, DONE) for _ in range(5000))))
    assert watched.looked_at <= 3 * 100
    assert len(watched) == 50
    transmissions.end()


def test_a_connection_that_has_everything_back_leaves_nothing(slots: ArenaSlots) -> None:
    with process_that_sleeps() as process:
        transmissions = Transmissions(slots, os.pidfd_open(process.pid))
        under_way(transmissions, 1)
        transmissions.hear(outcomes(0, 0))
        transmissions.end()
        process.kill()
    assert slots.used_bytes == 0


def test_what_was_not_released_is_used_again_only_when_the_process_has_ended(slots: ArenaSlots) -> None:
    with process_that_sleeps() as process:
        transmissions = Transmissions(slots, os.pidfd_open(process.pid))
        under_way(transmissions, 2)
        transmissions.hear(Held((0,)))
        transmissions.hear(outcomes(0, 0))
        transmissions.end()
        assert slots.used_bytes == 2 * 2 * PAGE
        process.kill()
        wait_until(lambda: slots.used_bytes == 0)


@pytest.mark.skipif(not TELLS_PROCESSES_APART, reason="Which process a pidfd is of, the kernel tells since 6.9.")
def test_one_watch_is_kept_over_each_process_however_many_connections_it_had(slots: ArenaSlots) -> None:
    with process_that_sleeps() as one, process_that_sleeps() as other:
        slots.arena()
        before = len(os.listdir("/proc/self/fd"))
        for process in (one, other):
            for _ in range(20):
                transmissions = Transmissions(slots, os.pidfd_open(process.pid))
                under_way(transmissions, 1)
                transmissions.end()
        assert slots.used_bytes == 40 * 2 * PAGE
        assert len(os.listdir("/proc/self/fd")) == before + 2
        one.kill()
        wait_until(lambda: slots.used_bytes == 20 * 2 * PAGE)
        other.kill()
        wait_until(lambda: slots.used_bytes == 0)
        assert len(os.listdir("/proc/self/fd")) == before


def test_what_comes_back_after_the_end_leaves_no_watch() -> None:
    before = set(os.listdir("/proc/self/fd"))
    slots = ArenaSlots(2**20, 2**30)
    transmissions = Transmissions(slots, os.pidfd_open(os.getpid()))
    under_way(transmissions, 1)
    slots.close()
    transmissions.end()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_nobody_can_tell_of_is_never_used_again(slots: ArenaSlots) -> None:
    transmissions = Transmissions(slots, None)
    under_way(transmissions, 2)
    transmissions.end()
    taken = []
    while (slot := slots.take(PAGE)) is not None:
        taken.append(slot)
    assert len(taken) == 2**20 // PAGE - 4
    del slot, taken
    assert slots.used_bytes == 4 * PAGE


def test_closing_ends_the_watch_over_processes() -> None:
    before = set(os.listdir("/proc/self/fd"))
    slots = ArenaSlots(2**20, 2**30)
    with process_that_sleeps() as process:
        transmissions = Transmissions(slots, os.pidfd_open(process.pid))
        under_way(transmissions, 1)
        transmissions.end()
        slots.close()
        process.kill()
    assert set(os.listdir("/proc/self/fd")) == before


# ── allocations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_outcomes_of_every_kind_release() -> None:
    slots = ArenaSlots(2**20, 2**30)
    transmissions = Transmissions(slots, None)
    under_way(transmissions, 1)
    rejected = OutcomeRange(0, 0, Outcome(OutcomeKind.REJECTED))
    transmissions.hear(OutcomesReceived((rejected,)))
    assert slots.used_bytes == 0
    transmissions.end()
    slots.close()
