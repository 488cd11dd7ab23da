"""Both ports of a master: a grant of the REST API opens its data port."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from benches.master import PLATES, ask, client_of, run_master
from harmonicio.control import paths
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import (
    Conflict,
    HarmonicIOError,
    NotFound,
)
from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.master.folder import DataFolder
from harmonicio.master.service import MasterService
from harmonicio.master.store import MasterStore
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Hello, OutcomesReceived
from harmonicio.wire.events import Role as DataRole
from harmonicio.wire.frames import VERSION

WaitUntil = Callable[..., object]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master", lost_after_s=1.0) as running:
        yield running


def dial(service: MasterService, ticket: str, source: str = "s1", stream: str = "plates") -> Link:
    link = Link(tcp.dial(service.data_address, timeout_s=5), DataRole.CONNECTOR)
    try:
        link.greet(Hello(DataRole.CONNECTOR, stream=stream, ticket=ticket, source=source, versions=(VERSION,)))
    except HarmonicIOError:
        link.close()
        raise
    return link


def put(link: Link, message_id: str, payload: bytes, wait_until: WaitUntil) -> None:
    link.send(message_prefix(message_id, len(payload)), payload)

    def is_answered() -> bool:
        link.read()
        return any(isinstance(event, OutcomesReceived) for event in iter(link.next_event, None))

    wait_until(is_answered)


def test_a_source_puts_messages_into_the_backlog_with_the_ticket_of_its_grant(
    service: MasterService, admin: MasterClient, wait_until: WaitUntil
) -> None:
    admin.declare_stream(PLATES)
    grant = ask(admin, "s1")
    assert (grant.leases, grant.route, grant.backlog.address) == ((), "queue", service.data_address)
    with closing(dial(service, grant.backlog.ticket)) as link:
        put(link, "parent/1", b"x" * 1_000, wait_until)
        put(link, "100%2F ü?#", b"", wait_until)
    (figures,) = admin.backlog()
    assert (figures.ready, figures.stored_total, figures.waiting_bytes) == (2, 2, 1_000)
    assert admin.stream("plates").backlog.ready == 2
    for message in ("parent/1", "100%2F ü?#"):
        assert admin.outcome("plates", message).state == "waiting"
    with pytest.raises(NotFound, match="Nothing is known"):
        admin.outcome("plates", "parent/2")
    status = admin.status()
    assert status.data_received_bytes >= 1_000 > status.control_received_bytes


@pytest.mark.row("S3")
def test_the_ticket_of_another_source_stream_or_epoch_opens_no_data_connection(
    service: MasterService, admin: MasterClient
) -> None:
    admin.declare_stream(PLATES)
    admin.declare_stream(dataclasses.replace(PLATES, name="spectra"))
    ticket = ask(admin, "s1").backlog.ticket
    dial(service, ticket).close()
    for refused in ({"source": "s2"}, {"stream": "spectra"}):
        with pytest.raises(HarmonicIOError):
            dial(service, ticket, **refused)
    with pytest.raises(HarmonicIOError):
        dial(service, "forged")
    admin.revoke_all_leases()
    with pytest.raises(HarmonicIOError):
        dial(service, ticket)


def test_a_master_on_all_addresses_tells_its_data_port_where_the_caller_reached_it(tmp_path: Path) -> None:
    with run_master(tmp_path, host="0.0.0.0", is_insecure=True) as service:
        port, token = service.data_address.port, service.token_file(Role.ADMIN).read_text()
        for host in ("127.0.0.1", "localhost"):
            with MasterClient(service.url.replace("0.0.0.0", host), token) as caller:
                caller.declare_stream(PLATES)
                assert ask(caller, "s1").backlog.address == Address(host, port)
                welcome = caller.register_worker(WorkerRegistration("w1", host, 1, "memory", "1"))
                assert welcome.data_address == Address(host, port)


@pytest.mark.parametrize("header", ["", "no host/", "[::1"])
def test_a_caller_who_names_no_host_is_told_the_masters_own(tmp_path: Path, header: str) -> None:
    with run_master(tmp_path, host="0.0.0.0", is_insecure=True) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        request = HTTPConnection("127.0.0.1", int(service.url.rpartition(":")[2]), timeout=10)
        token = service.token_file(Role.SOURCE).read_text().strip()
        headers = {"Host": header, "Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request.request("POST", paths.LEASES, '{"stream": "plates", "source": "s1", "count": 1}', headers)
        with closing(request), request.getresponse() as answer:
            assert json.load(answer)["backlog"]["address"]["host"] == socket.gethostname()


def test_a_stream_with_waiting_messages_is_deleted_by_force_only(
    service: MasterService, admin: MasterClient, wait_until: WaitUntil
) -> None:
    admin.declare_stream(PLATES)
    with closing(dial(service, ask(admin, "s1").backlog.ticket)) as link:
        put(link, "m1", b"x", wait_until)
    with pytest.raises(Conflict, match="wait in the backlog: 1"):
        admin.delete_stream("plates")
    admin.delete_stream("plates", is_forced=True)
    assert admin.streams() == () and admin.backlog() == ()
    with pytest.raises(NotFound):
        admin.delete_stream("plates")


def test_messages_of_a_stream_that_is_not_declared_any_more_are_told_of(tmp_path: Path, wait_until: WaitUntil) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        with closing(dial(service, ask(admin, "s1").backlog.ticket)) as link:
            put(link, "m1", b"x" * 1_000, wait_until)
    with closing(DataFolder(tmp_path)) as folder, closing(MasterStore(folder.database)) as store:
        store.drop_stream("plates")
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        assert [(each.stream, each.ready) for each in admin.backlog()] == [("plates", 1)]
        assert "Messages of stream 'plates' are kept, which is not declared" in admin.status().recovered[-1]
        admin.declare_stream(PLATES)
        admin.delete_stream("plates", is_forced=True)
        assert admin.backlog() == ()


def test_messages_that_wait_survive_a_restart(tmp_path: Path, wait_until: WaitUntil) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        with closing(dial(service, ask(admin, "s1").backlog.ticket)) as link:
            put(link, "m1", b"x" * 100_000, wait_until)
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        assert admin.outcome("plates", "m1").state == "waiting"
