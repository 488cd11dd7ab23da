"""What the control thread asks of an exchange that is closed, or about to be."""

from __future__ import annotations

from typing import cast

from harmonicio.core.errors import ConnectionEnded
from harmonicio.stream_connector.arena_slots import ArenaSlots, Transmissions
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.exchange import Exchange
from harmonicio.stream_connector.lanes import Lane
from harmonicio.stream_connector.peers import Peer
from harmonicio.stream_connector.settlement import Settlement
from harmonicio.transport.link import Link
from harmonicio.wire.events import Held, Released


class SilentPeer(Peer):
    """A connection on which nothing is written."""

    def __init__(self, transmissions: Transmissions | None = None) -> None:
        super().__init__(cast(Link, None), Lane("engine", is_backlog=False), transmissions=transmissions)
        self.has_said_goodbye = False

    def say_goodbye(self) -> None:
        self.has_said_goodbye = True


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
