"""The backlog: streams that are deleted, with what waits, what is dead and what is on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from benches.backlog import DONE, ERROR, FATAL, PLATES, STORED, Desk, HeldStore, message
from harmonicio.core.errors import (
    Conflict,
    NotFound,
    StorageError,
    Unavailable,
)
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog import written
from harmonicio.master.backlog.base import MemoryPayload
from harmonicio.master.backlog.entry import Death, Entry
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import SEVERAL_SECONDS
from harmonicio.testing.waiting import wait_until


@contextmanager
def dropping(desk: Desk, store: HeldStore) -> Iterator[None]:
    """Delete the stream; within, the store is about to write that. Raises what the deletion raises."""
    with ThreadPoolExecutor(1) as threads:
        deletion = threads.submit(desk.backlog.drop_stream, "plates", is_forced=True)
        wait_until(lambda: not takes(desk) or deletion.done(), what="the stream to take nothing more")
        wait_until(lambda: store.held or deletion.done(), what="something to be written")
        assert not deletion.done(), "it was answered before it was written"
        yield
        deletion.result(SEVERAL_SECONDS)


def takes(desk: Desk) -> bool:
    try:
        desk.backlog.new_payload("plates", 1).discard()
    except NotFound:
        return False
    return True


def test_a_dropped_stream_is_gone_with_all_that_was_on_its_way(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    desk.subscribe("a")
    desk.put("storing")
    arriving = desk.backlog.new_payload("plates", 5)
    with dropping(desk, store):
        store.release()  # What was being stored; it is forgotten next, and then the stream.
        assert (desk.finals, desk.state("a")) == ([], "waiting")
        assert desk.answers == [STORED], "before it is forgotten for good, nothing is said of what was being stored"
        store.release()
    assert desk.finals == [("a", None)]
    desk.backlog.put("plates", message("b", b"cells"), arriving, desk.answers.append)
    assert [answer.reason for answer in desk.answers[1:]] == [RejectReason.STORAGE] * 2
    assert [desk.state(message_id) for message_id in ("a", "storing", "b")] == [None] * 3
    desk.backlog.declare(PLATES)
    desk.put("a", b"anew")
    store.release()
    assert desk.answers[-1] == STORED
    desk.backlog.close()
    assert [entry.message_id for entry in store.recover().entries] == ["a"]


@pytest.mark.parametrize("error", [None, StorageError("The disk is full.")])
def test_a_deletion_is_written_behind_all_that_was_being_put(
    held: tuple[Desk, HeldStore], error: StorageError | None
) -> None:
    desk, store = held
    desk.put("large")  # Its file is being flushed.
    with dropping(desk, store):
        assert len(store.held) == 1, "a put that lands behind the deletion would be there again after a kill"
        store.release(error)
        store.release()
    assert [answer.reason for answer in desk.answers] == [RejectReason.STORAGE]
    desk.backlog.close()
    assert list(store.recover().entries) == []


def test_what_could_not_be_forgotten_is_forgotten_later(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    with pytest.raises(StorageError), dropping(desk, store):
        store.release()
        store.release(StorageError("The disk is full."))
    assert [entry.message_id for entry in store.recover().entries] == ["a"]
    desk.backlog.tick()
    store.release()
    assert list(store.recover().entries) == []


@pytest.mark.parametrize("dead", [(), (1,), (2,), (1, 2)])
def test_of_two_rows_of_one_id_the_later_one_is_kept(dead: tuple[int, ...]) -> None:
    store = MemoryStore()
    store.recover()
    for sequence in (1, 2):
        death = Death(FATAL) if sequence in dead else None
        store.put(Entry("plates", "a", sequence, 5), MemoryPayload(5), lambda error: None, death)
    desk = Desk(store)
    assert desk.state("a") == ("dead" if 2 in dead else "waiting")
    assert "was there twice" in desk.backlog.recovered[-1]
    if 2 not in dead:
        desk.backlog.settle([desk.reserve()], DONE)
        assert desk.state("a") == "done"
    assert desk.backlog.depth("plates") == 0
    desk.backlog.close()
    assert [entry.sequence for entry in (*store.recover().entries, *store.recover().dead)] == ([2] if 2 in dead else [])


def test_a_stream_with_messages_or_dead_letters_is_dropped_by_force_only(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    arriving = desk.backlog.new_payload("plates", 5)
    with pytest.raises(Conflict, match="wait in the backlog: 0; on their way into it: 1"):
        desk.backlog.drop_stream("plates")
    desk.backlog.put("plates", message("a", b"cells"), arriving, desk.answers.append)
    with pytest.raises(Conflict, match="wait in the backlog: 0; on their way into it: 1"):
        desk.backlog.drop_stream("plates")
    store.release()
    with pytest.raises(Conflict, match="wait in the backlog: 1; on their way into it: 0"):
        desk.backlog.drop_stream("plates")
    store.is_holding = False
    reservation = desk.reserve()
    with pytest.raises(Conflict):
        desk.backlog.drop_stream("plates")
    desk.backlog.settle([reservation], Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert desk.state("a") == "dead"
    with pytest.raises(Conflict, match="dead letters: 1"):
        desk.backlog.drop_stream("plates")
    desk.backlog.drop_stream("plates", is_forced=True)
    assert desk.state("a") is None


def test_a_deletion_that_cannot_be_written_leaves_everything_there(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    desk.subscribe("a")
    with pytest.raises(StorageError, match="disk is full"), dropping(desk, store):
        store.release(StorageError("The disk is full."))
    assert (desk.state("a"), desk.finals) == ("waiting", [])
    desk.backlog.declare(PLATES)
    desk.put("b")
    store.release()
    assert desk.answers == [STORED, STORED]
    desk.backlog.close()
    assert [entry.message_id for entry in store.recover().entries] == ["a", "b"]


def test_what_a_stream_got_after_a_slow_deletion_had_begun_stays(
    held: tuple[Desk, HeldStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, store = held
    monkeypatch.setattr(written, "WRITTEN_WITHIN_S", 0.01)
    desk.put("a")
    store.release()
    with pytest.raises(Unavailable, match="the change goes on"):
        desk.backlog.drop_stream("plates", is_forced=True)
    desk.backlog.declare(PLATES)
    desk.put("b")
    desk.subscribe("a")
    desk.subscribe("b")
    store.release()
    assert (desk.state("a"), desk.state("b")) == (None, "waiting")
    assert desk.finals == [("a", None)], "the other one is there, and not known to have ended"
    store.is_holding = False
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert desk.state("b") == "waiting", "it is treated as its declaration says"
    desk.backlog.close()
    assert [entry.message_id for entry in store.recover().entries] == ["b"]


def test_nothing_is_taken_for_a_stream_that_is_gone(desk: Desk) -> None:
    desk.backlog.drop_stream("plates")
    desk.put("a")
    assert [(answer.kind, answer.reason) for answer in desk.answers] == [(OutcomeKind.REJECTED, RejectReason.STORAGE)]
    assert "no stream 'plates' any more" in desk.answers[0].text
    with pytest.raises(NotFound):
        desk.backlog.new_payload("plates", 5)
    assert desk.backlog.figures("plates").stored_total == 0
    assert list(desk.store.recover().entries) == []


def test_a_message_put_while_its_stream_is_dropped_is_either_rejected_or_keeps_the_stream(tmp_path: Path) -> None:
    desk = Desk(SqliteStore(tmp_path))
    start = threading.Barrier(2)

    def put(message_id: str) -> None:
        start.wait()
        desk.put(message_id)

    for number in range(100):
        desk.answers.clear()
        desk.backlog.declare(PLATES)
        putting = threading.Thread(target=put, args=(f"m{number}",))
        putting.start()
        start.wait()
        try:
            desk.backlog.drop_stream("plates")
        except Conflict:
            is_kept = True
        else:
            is_kept = False
        putting.join()
        wait_until(lambda: desk.answers, what="the answer to the put")
        if desk.answers == [STORED]:
            assert is_kept, "a stored message was dropped"
            desk.backlog.settle([desk.reserve()], DONE)
            wait_until(lambda: desk.backlog.figures("plates").reserved == 0)
        else:
            assert not is_kept
            assert desk.state(f"m{number}") is None
    desk.backlog.close()
