"""Slots and credit of one engine, step by step."""

from __future__ import annotations

import pytest

from harmonicio.engine.loop import EMITTING_GRACE_S, LARGEST_WINDOW, OVERTAKEN_FOR_S, EngineLoop
from harmonicio.engine.peer import IDLE_AFTER_S, Peer

BUDGET = 64 * 1024**2


def loop_of(concurrency: int = 1, *, handler_s: float | None = None, prefetch_s: float = 0.1) -> EngineLoop:
    loop = EngineLoop(concurrency, prefetch_s, BUDGET)
    if handler_s is not None:
        loop.measured(1000, 1000 * handler_s)
    return loop


def joined(loop: EngineLoop, name: str = "source", now: float = 0.0, *, is_backlog: bool = False) -> Peer:
    peer = Peer(name, is_backlog=is_backlog)
    loop.join(peer, now)
    loop.grants(now)
    return peer


def handle(peer: Peer, count: int = 1, size_bytes: int = 1000) -> None:
    """Let messages come, start and be answered."""
    for _ in range(count):
        assert peer.credit.message_received(size_bytes)
        peer.started_here += 1
        peer.credit.message_answered(size_bytes)


# ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_free_slot_goes_to_the_backlog_first_and_then_in_the_order_of_arrival() -> None:
    loop = loop_of(1)
    assert loop.take_slot()
    for waiter in ("first", "second"):
        assert not loop.take_slot()
        loop.wait_for_slot(waiter, 0.0, is_backlog=False)
    loop.wait_for_slot("stored", 0.0, is_backlog=True)
    assert [loop.free_slot(0.5) for _ in range(4)] == [["stored"], ["first"], ["second"], []]
    assert loop.free_slots == 1


def test_who_has_waited_for_a_second_is_not_overtaken_by_the_backlog_any_more() -> None:
    loop = loop_of(2)
    assert loop.take_slot()
    assert loop.take_slot()
    for waiter, since in (("first", 0.0), ("second", 0.1), ("third", 0.9)):
        loop.wait_for_slot(waiter, since, is_backlog=False)
    freed = []
    for step in range(20):
        loop.wait_for_slot("stored", 0.2 * step, is_backlog=True)
        freed += loop.free_slot(0.2 * step)
    taken_at = {name: 0.2 * freed.index(name) for name in ("first", "second", "third")}
    assert taken_at == pytest.approx({"first": OVERTAKEN_FOR_S, "second": 1.2, "third": 2.0})
    assert freed.count("stored") == 17


def test_what_has_waited_behind_another_message_keeps_its_place_among_those_that_came_before_it() -> None:
    loop = loop_of(1)
    assert loop.take_slot()
    for waiter, since in (("young", 1.9), ("younger", 2.0), ("behind", 0.5), ("behind as well", 0.5)):
        loop.wait_for_slot(waiter, since, is_backlog=False)
    loop.wait_for_slot("stored", 2.0, is_backlog=True)
    freed = [each for _ in range(5) for each in loop.free_slot(2.0)]
    assert freed == ["behind", "behind as well", "stored", "young", "younger"]


def test_a_drain_refuses_who_waits_and_gives_no_more_credit() -> None:
    loop = loop_of(1)
    peer = joined(loop)
    loop.take_slot()
    loop.wait_for_slot("waiting", 0.0, is_backlog=False)
    assert loop.drain() == ["waiting"]
    handle(peer)
    assert loop.grants(1.0) == ([], None)
    assert peer.credit.messages_total == 1


# ── the window ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_before_anything_was_measured_the_window_is_one_message_for_each_slot() -> None:
    assert loop_of(4).window == 4


@pytest.mark.parametrize(
    ("concurrency", "handler_s", "window"), [(1, 0.01, 10), (4, 0.01, 40), (1, 10.0, 1), (1, 1e-9, LARGEST_WINDOW)]
)
def test_the_window_is_what_prefetch_s_of_handler_time_holds(concurrency: int, handler_s: float, window: int) -> None:
    assert loop_of(concurrency, handler_s=handler_s).window == window


def test_the_measured_time_follows_what_handlers_take_now() -> None:
    loop = loop_of(1, handler_s=0.001)
    for _ in range(30):
        loop.measured(1, 0.1)
    assert loop.handler_s == pytest.approx(0.1, rel=0.01)


# ── credit ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_peer_has_the_whole_window_and_bytes_beside_the_masters_share() -> None:
    loop = loop_of(1, handler_s=0.01)
    peer = joined(loop)
    assert peer.credit.messages_total == 10
    assert peer.credit.bytes_total == BUDGET // 2


def test_more_is_told_only_when_half_of_the_window_is_used_up() -> None:
    loop = loop_of(1, handler_s=0.001)
    peer = joined(loop)
    assert peer.open == 100
    told_after = []
    for count in range(100):
        handle(peer)
        if loop.grants(0.0)[0]:
            told_after.append(count + 1)
    assert told_after == [50, 100]


def test_peers_share_the_window_in_bytes() -> None:
    loop = loop_of(1, handler_s=0.001)
    small, large = joined(loop, "small"), joined(loop, "large")
    assert (small.open, large.open) == (100, 1), "a new peer has one message at once, even without room"
    for _ in range(100):
        handle(small, small.unused, size_bytes=10_000)
        handle(large, large.unused, size_bytes=40_000)
        loop.grants(0.0)
    assert (small.open, large.open) == (80, 20)


def test_who_comes_when_others_have_all_credit_has_one_message_at_a_time_until_they_have_used_it() -> None:
    loop = loop_of(1, handler_s=0.001)
    early, late = joined(loop, "early"), joined(loop, "late")
    assert (early.open, late.open) == (100, 1)
    for step in range(30):
        handle(early)
        handle(late)
        loop.grants(0.001 * step)
        assert late.unused, "whatever the early one leaves unused"
    handle(early, early.unused)
    loop.grants(0.04)
    assert early.open + late.open <= 100
    assert min(early.open, late.open) > 25, "from then on they share"


def test_peers_take_turns_when_the_window_is_smaller_than_their_number() -> None:
    loop = loop_of(1, handler_s=1.0)
    peers = [joined(loop, f"source {number}") for number in range(3)]
    for peer in peers:
        handle(peer)
    turns = []
    for step in range(9):
        told, _ = loop.grants(0.001 * step)
        (peer,) = told
        turns.append(peers.index(peer))
        assert sum(each.open for each in peers) == 1
        handle(peer)
    assert [turns.count(number) for number in range(3)] == [3, 3, 3]


def test_an_idle_peer_keeps_its_message_and_does_not_hold_up_the_others() -> None:
    loop = loop_of(1, handler_s=1.0)
    quiet, busy = joined(loop, "quiet"), joined(loop, "busy")
    assert quiet.unused == 1
    handle(busy)
    told, again_at = loop.grants(0.0)
    assert told == []
    assert again_at == pytest.approx(IDLE_AFTER_S)
    told, _ = loop.grants(IDLE_AFTER_S + 0.001)
    assert told == [busy]
    assert quiet.unused == 1


def test_who_waits_until_a_peer_is_idle_finds_it_so() -> None:
    for now in [2.0**power for power in range(30)]:
        loop = loop_of(1, handler_s=1.0)
        joined(loop, "quiet", now)
        busy = joined(loop, "busy", now)
        handle(busy)
        _, again_at = loop.grants(now)
        assert again_at is not None
        assert loop.grants(again_at) == ([busy], None), "whatever the sum of two times is rounded to"


def test_one_of_thousands_of_idle_peers_has_credit_as_soon_as_it_asks_and_soon_when_it_does_not() -> None:
    loop = loop_of(1, handler_s=0.001)
    crowd = [joined(loop, f"source {number}") for number in range(1000)]
    for now in (1.0, 1.001):
        loop.grants(now)
    asking, silent = crowd[-1], crowd[-2]
    handle(asking)
    handle(silent)
    told, _ = loop.grants(1.002, asking)
    assert told == [asking]
    told, _ = loop.grants(1.05)
    assert told == [silent], "all are looked at now and then"
    assert all(peer.unused for peer in crowd)


def test_one_of_thousands_that_asked_while_a_suspect_had_the_engine_has_credit_afterwards() -> None:
    loop = loop_of(2, handler_s=0.001)
    crowd = [joined(loop, f"source {number}") for number in range(1000)]
    for now in (1.0, 1.001):
        loop.grants(now)
    asking = crowd[-1]
    assert loop.take_slot()
    loop.wait_for_all_slots("suspect", 1.002)
    handle(asking)
    assert loop.grants(1.002, asking) == ([], pytest.approx(1.002, abs=10.0))
    assert loop.free_slot(1.003) == ["suspect"]
    assert loop.free_slot(1.004) == []
    told, _ = loop.grants(1.004)
    assert told == [asking]


def test_an_idle_peer_that_leaves_is_forgotten() -> None:
    loop = loop_of(1, handler_s=0.001)
    quiet = joined(loop, "quiet")
    loop.grants(1.0)
    loop.leave(quiet)
    handle(quiet)
    assert loop.grants(2.0) == ([], None)


def test_the_master_has_one_message_beyond_what_has_been_started() -> None:
    loop = loop_of(2, handler_s=0.001)
    master = joined(loop, is_backlog=True)
    assert master.unused == 1
    master.credit.message_received(10)
    loop.grants(0.0)
    assert master.unused == 0, "it waits for a slot"
    master.started_elsewhere += 1
    assert loop.grants(0.0)[0] == [master]
    assert master.unused == 1


def test_while_messages_wait_in_the_backlog_connectors_get_nothing_new_and_the_master_has_their_window() -> None:
    loop = loop_of(1, handler_s=0.01)
    master, peer = joined(loop, "master", is_backlog=True), joined(loop)
    loop.depth = 3
    handle(peer, 10)
    loop.grants(0.0)
    assert peer.credit.messages_total == 10
    assert master.open == 10
    loop.depth = 0
    assert loop.grants(0.0)[0] == [peer]
    assert peer.open == 10


def test_without_its_connection_nothing_is_known_of_the_backlog() -> None:
    loop = loop_of(1, handler_s=0.01)
    master, peer = joined(loop, "master", is_backlog=True), joined(loop)
    loop.depth = 3
    handle(peer, 10)
    loop.leave(master)
    assert loop.grants(0.0)[0] == [peer]


def test_a_message_beyond_the_bytes_does_not_leave_the_totals_behind() -> None:
    loop = loop_of(1, handler_s=0.01)
    peer = joined(loop)
    handle(peer, size_bytes=10 * BUDGET)
    loop.grants(0.0)
    assert peer.credit.bytes_total == 10 * BUDGET + BUDGET // 2


# ── slots that wait for what was emitted ─────────────────────────────────────────────────────────────────────────────


def test_when_every_slot_waits_for_what_it_emitted_who_waits_is_turned_away_but_not_the_backlog() -> None:
    loop = loop_of(2)
    peer = joined(loop)
    loop.take_slot()
    loop.take_slot()
    loop.wait_for_slot("source's", 10.0, is_backlog=False)
    loop.wait_for_slot("stored", 10.0, is_backlog=True)
    assert loop.emission_begun(10.0) is None
    assert loop.emission_begun(20.0) == 20.0 + EMITTING_GRACE_S
    assert loop.turn_away(20.0) == []
    assert not loop.is_clogged(20.0, is_backlog=False)
    assert loop.turn_away(20.0 + EMITTING_GRACE_S) == ["source's"]
    assert loop.is_clogged(30.0, is_backlog=False)
    loop.emission_ended()
    assert not loop.is_clogged(40.0, is_backlog=False)
    assert loop.free_slot(40.0) == ["stored"]
    assert peer.credit.messages_total > 0


def test_nobody_gets_credit_while_every_slot_waits_for_what_it_emitted() -> None:
    loop = loop_of(1)
    peer = joined(loop)
    handle(peer)
    loop.take_slot()
    loop.emission_begun(1.0)
    assert loop.grants(1.0) == ([], 1.0 + EMITTING_GRACE_S)
    assert loop.has_hungry_peers, "whoever is next to look gives it"
    loop.emission_ended()
    assert loop.grants(2.0)[0] == [peer]


@pytest.mark.parametrize("others", ["nobody", "stored", "suspect"])
def test_a_look_that_comes_too_early_to_turn_anybody_away_says_when_the_next_one_is_due(others: str) -> None:
    loop = loop_of(1)
    joined(loop)
    loop.take_slot()
    loop.wait_for_slot("source's", 1.0, is_backlog=False)
    loop.emission_begun(1.0)
    if others == "stored":
        loop.wait_for_slot("stored", 1.1, is_backlog=True)
    elif others == "suspect":
        loop.wait_for_all_slots("suspect", 1.1)
    assert loop.turn_away(1.2) == []
    due_at = loop.grants(1.2)[1]
    assert due_at == 1.0 + EMITTING_GRACE_S
    assert loop.turn_away(due_at) == ["source's"]
