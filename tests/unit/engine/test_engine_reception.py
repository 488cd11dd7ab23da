"""Who may send: tickets, terms, sources and epochs."""

from __future__ import annotations

import pytest

from harmonicio.control import tickets
from harmonicio.core.errors import NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.reception import TicketDesk, answer_to, check_role
from harmonicio.wire.events import Hello, Role

KEY = tickets.new_key()
WALL_S = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL_S + self.now


def ticket(
    *,
    lease: str = "l1",
    source: str = "scope",
    engine: str = "e1",
    stream: str = "cells",
    epoch: int = 1,
    kind: TicketKind = TicketKind.LEASE,
    key: str = KEY,
) -> str:
    return tickets.sign(key, Claims(kind, stream, 60.0, WALL_S, epoch, lease=lease, engine=engine, source=source))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(clock: Clock) -> TicketDesk:
    return TicketDesk(KEY, "cells", "e1", clock)


def test_a_source_may_present_its_ticket_again_until_the_lease_ends(desk: TicketDesk, clock: Clock) -> None:
    assert desk.present(ticket(), "scope").lease == "l1"
    assert desk.ends_at("l1") == 160.0
    clock.now += 59.0
    desk.present(ticket(), "scope")
    clock.now += 1.0
    with pytest.raises(NotAllowed, match="ended"):
        desk.present(ticket(), "scope")


def test_the_timer_starts_when_the_ticket_is_first_presented(desk: TicketDesk, clock: Clock) -> None:
    clock.now += 300.0
    desk.present(ticket(), "scope")
    clock.now += 59.0
    desk.present(ticket(), "scope")


@pytest.mark.parametrize(
    "presented",
    [
        ticket(source="other"),
        ticket(engine="e2"),
        ticket(stream="tissue"),
        ticket(key=tickets.new_key()),
        ticket(kind=TicketKind.INTAKE),
        "",
        "nonsense",
    ],
)
def test_what_was_not_given_to_this_source_for_this_engine_is_refused(desk: TicketDesk, presented: str) -> None:
    with pytest.raises(NotAllowed):
        desk.present(presented, "scope")


def test_another_source_cannot_use_a_lease(desk: TicketDesk) -> None:
    desk.present(ticket(), "scope")
    with pytest.raises(NotAllowed, match="another source"):
        desk.present(ticket(source="other"), "other")


def test_tickets_of_an_older_epoch_than_the_masters_are_refused(desk: TicketDesk) -> None:
    desk.present(ticket(), "scope")
    desk.epoch = 2
    desk.present(ticket(lease="l2", epoch=2), "scope")
    with pytest.raises(NotAllowed, match="revoked"):
        desk.present(ticket(), "scope")


def test_a_ticket_of_an_earlier_master_does_not_shut_out_those_of_the_one_that_there_is(desk: TicketDesk) -> None:
    desk.epoch = 5
    desk.epoch = 1  # The master's folder was restored.
    desk.present(ticket(lease="l5", epoch=5), "scope")
    assert desk.present(ticket(lease="l1", epoch=1), "scope").lease == "l1"


def test_only_connectors_of_this_stream_are_served() -> None:
    declaration = StreamDeclaration("cells", handler="x.py", max_message_bytes=1000)
    with pytest.raises(NotAllowed):
        check_role(Hello(Role.ENGINE, stream="cells"), declaration)
    with pytest.raises(NotAllowed, match="tissue"):
        check_role(Hello(Role.CONNECTOR, stream="tissue"), declaration)
    hello = Hello(Role.CONNECTOR, stream="cells", checksums=("unknown", "crc32"))
    check_role(hello, declaration)
    answer = answer_to(hello, declaration, "e1")
    assert (answer.role, answer.checksums, answer.max_message_bytes) == (Role.ENGINE, ("crc32",), 1000)
