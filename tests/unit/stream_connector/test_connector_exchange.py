"""What the control thread asks of an exchange that is closed, or about to be."""

from __future__ import annotations

import time
from typing import cast

from harmonicio.control.messages import BacklogAccess, LeaseGrant
from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.lease import Address
from harmonicio.stream_connector.arena_slots import ArenaSlots, Transmissions
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.dispatch import FEW_MESSAGES, Dispatch
from harmonicio.stream_connector.exchange import Exchange
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import Peer, Written
from harmonicio.stream_connector.settlement import Settlement
from harmonicio.transport.link import Link
from harmonicio.wire.events import Held, Released


class SilentPeer(Peer):
    """A connection on which nothing is written."""

    def __init__(self, transmissions: Transmissions | None = None) -> None:
        super().__init__(cast(Link, None), Lane("engine", is_backlog=False), transmissions=transmissions)
        self.has_said_goodbye = False

    def flush(self) -> Written:
        self.lane.outbox.clear()
        return Written.ALL

    def say_goodbye(self) -> None:
        self.has_said_goodbye = True


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


def opened(transmissions: Transmissions | None = None) -> tuple[Exchange, SilentPeer]:
    dispatch, peer = Dispatch(10**9), SilentPeer(transmissions)
    exchange = Exchange(dispatch, "test", Settlement(None, keeps_outcomes=True))
    exchange._peers[peer.lane] = peer
    dispatch.lane_opened(peer.lane, 0.0)
    return exchange, peer


def test_a_connection_that_ended_while_the_connector_closed_is_not_called_idle() -> None:
    exchange, peer = opened()
    exchange.end()
    exchange.peer_ended(peer, ConnectionEnded("The engine is gone."))
    exchange.end_idle(0.0)
    assert not peer.has_said_goodbye


def test_a_connection_of_which_the_engine_still_has_a_view_does_not_end_for_being_idle() -> None:
    slots = ArenaSlots(2**20, 2**30)
    transmissions = Transmissions(slots, None)
    exchange, peer = opened(transmissions)
    slot = slots.take(100)
    assert slot is not None
    transmissions.place(0, slot)
    transmissions.hear(Held((0,)))
    exchange.end_idle(0.0)
    assert not peer.has_said_goodbye
    transmissions.hear(Released((0,)))
    exchange.end_idle(0.0)
    assert peer.has_said_goodbye
    exchange.end()
    slots.close()


def test_that_engines_are_wanted_is_not_told_before_the_master_is_asked_again() -> None:
    exchange, peer = opened()
    exchange.pump.start()
    told: list[float] = []
    exchange.on_wanted = lambda: told.append(time.monotonic())
    peer.lane.credit.granted(10**6, 10**9)
    again_at = time.monotonic() + 0.2
    exchange.engines_expected(again_at)
    told.clear()
    for number in range(2 * FEW_MESSAGES):
        exchange.offer(Parcel(Delivery(Nobody(), f"m-{number}", 10), b"0123456789"))
    assert exchange.wants_engines()
    assert told == []
    while time.monotonic() < again_at:
        exchange.offer(Parcel(Delivery(Nobody(), "m", 10), b"0123456789"))
    exchange.offer(Parcel(Delivery(Nobody(), "the next", 10), b"0123456789"))
    assert len(told) == 1
    assert told[0] >= again_at
    exchange.end()
    exchange.pump.close()


def test_what_the_master_says_of_the_stream_is_what_engines_are_chosen_by() -> None:
    dispatch = Dispatch(10**9)
    exchange = Exchange(dispatch, "test", Settlement(None, keeps_outcomes=True))
    backlog = BacklogAccess(Address("127.0.0.1", 1), "t", 60.0)
    exchange.granted(LeaseGrant((), backlog, "engine", 9.0, timeout_s=5.0, is_ordered=True, window_s=2.0))
    assert (dispatch.handler_timeout_s, dispatch.pause.keeps_order, dispatch.window_s) == (5.0, True, 2.0)
    exchange.end()
    exchange.pump.close()
