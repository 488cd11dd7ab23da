"""What is revoked ends: connections to the backlog do not outlive the right to send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseRequest
from harmonicio.core.errors import NotAllowed, NotFound
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Credit, Goodbye, Hello, OutcomesReceived
from harmonicio.wire.events import Role as DataRole
from harmonicio.wire.frames import VERSION

PLATES = StreamDeclaration("plates", handler="/handlers/plates.py", engines=0)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    options = MasterOptions(data_folder=tmp_path / "master", port=0, data_port=0, settle_s=0.0)
    with MasterService(options) as running:
        yield running


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with MasterClient(service.url, service.token_file(Role.ADMIN).read_text().strip()) as client:
        client.declare_stream(PLATES)
        yield client


def dial(service: MasterService, secret: str, source: str = "s1", stream: str = "plates") -> tuple[Link, str]:
    """Open a connection to the backlog, with a ticket that is asked for with this token; return the ticket, too."""
    with MasterClient(service.url, secret) as client:
        ticket = client.request_leases(LeaseRequest(stream, source, 1)).backlog.ticket
    return greet(service, ticket, source, stream), ticket


def greet(service: MasterService, ticket: str, source: str = "s1", stream: str = "plates") -> Link:
    link = Link(tcp.dial(service.data_address, timeout_s=5), DataRole.CONNECTOR)
    try:
        link.greet(Hello(DataRole.CONNECTOR, stream=stream, ticket=ticket, source=source, versions=(VERSION,)))
    except BaseException:
        link.close()
        raise
    return link


def wait_for(link: Link, kind: type) -> object:
    seen: list[object] = []

    def is_there() -> bool:
        link.read()
        seen.extend(event for event in iter(link.next_event, None) if isinstance(event, kind))
        return bool(seen)

    wait_until(is_there, 10, what=kind.__name__)
    return seen[0]


def revoke_the_token(admin: MasterClient) -> None:
    admin.revoke_token("microscope")


def raise_the_epoch(admin: MasterClient) -> None:
    admin.revoke_all_leases()


def delete_the_stream(admin: MasterClient) -> None:
    admin.delete_stream("plates", is_forced=True)


REVOCATIONS = [revoke_the_token, raise_the_epoch, delete_the_stream]


@pytest.mark.parametrize("revoke", REVOCATIONS)
def test_an_idle_connection_ends_with_the_reason(
    service: MasterService, admin: MasterClient, revoke: Callable[[MasterClient], None]
) -> None:
    link, ticket = dial(service, admin.create_token("microscope", Role.SOURCE).secret)
    with closing(link):
        wait_for(link, Credit)
        revoke(admin)
        goodbye = wait_for(link, Goodbye)
        assert isinstance(goodbye, Goodbye) and goodbye.code == "not_allowed" and goodbye.hint
    with pytest.raises((NotAllowed, NotFound)):
        greet(service, ticket)


def test_what_is_sent_after_the_revocation_is_not_taken_and_what_was_stored_stays(
    service: MasterService, admin: MasterClient
) -> None:
    link, _ = dial(service, admin.create_token("microscope", Role.SOURCE).secret)
    with closing(link):
        wait_for(link, Credit)
        link.send(message_prefix("before", 1), b"x")
        wait_for(link, OutcomesReceived)
        revoke_the_token(admin)
        link.send(message_prefix("after", 1), b"x")
        wait_for(link, Goodbye)
    assert admin.outcome("plates", "before").state == "waiting"
    with pytest.raises(NotFound):
        admin.outcome("plates", "after")


def test_only_what_was_opened_with_the_token_ends(service: MasterService, admin: MasterClient) -> None:
    revoked, _ = dial(service, admin.create_token("microscope", Role.SOURCE).secret)
    kept, _ = dial(service, admin.create_token("other", Role.SOURCE).secret, source="s2")
    with closing(revoked), closing(kept):
        revoke_the_token(admin)
        wait_for(revoked, Goodbye)
        wait_for(kept, Credit)
        kept.send(message_prefix("m", 1), b"x")
        wait_for(kept, OutcomesReceived)


def test_another_token_of_the_same_name_does_not_bring_a_revoked_ticket_back(
    service: MasterService, admin: MasterClient
) -> None:
    link, ticket = dial(service, admin.create_token("microscope", Role.SOURCE).secret)
    link.close()
    revoke_the_token(admin)
    admin.create_token("microscope", Role.SOURCE)
    with pytest.raises(NotAllowed, match="revoked"):
        greet(service, ticket)


def test_a_source_that_may_still_send_goes_on_after_all_leases_were_revoked(
    service: MasterService, admin: MasterClient
) -> None:
    secret = admin.create_token("microscope", Role.SOURCE).secret
    with StreamConnector(stream="plates", master=service.url, token=secret, patience_s=0.0) as connector:
        deliveries = []
        for number in range(200):
            deliveries.append(connector.send(b"x" * 10_000))
            if number == 100:
                connector.flush("safe", timeout_s=20)
                raise_the_epoch(admin)
        connector.flush("safe", timeout_s=20)
        assert all(delivery.is_safe for delivery in deliveries)
    assert admin.stream("plates").backlog.stored_total == 200


def test_a_source_whose_token_was_revoked_hears_so(service: MasterService, admin: MasterClient) -> None:
    secret = admin.create_token("microscope", Role.SOURCE).secret
    connector = StreamConnector(stream="plates", master=service.url, token=secret, patience_s=0.0)
    with pytest.raises(NotAllowed, match="not known here"), connector:
        connector.send(b"before")
        connector.flush("safe", timeout_s=20)
        revoke_the_token(admin)
        connector.send(b"after")
        connector.flush("safe", timeout_s=20)
    assert admin.stream("plates").backlog.stored_total == 1
