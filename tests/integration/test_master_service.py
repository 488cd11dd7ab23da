"""A real master on a free port, asked by the real client."""

from __future__ import annotations

import dataclasses
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.master import ENGINE_ADDRESS, IDLE, PLATES, FakeController, ask, client_of, run_master
from harmonicio.control import tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import (
    Desired,
    EngineExit,
    LeaseList,
    WorkerReport,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.errors import (
    ConfigurationError,
    Conflict,
    InvalidInput,
    MasterUnavailable,
    NotFound,
    Unavailable,
)
from harmonicio.core.lease import TicketKind
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.testing.clock import ManualClock

WaitUntil = Callable[..., object]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master", lost_after_s=1.0) as running:
        yield running


def test_a_fresh_master_is_healthy_and_knows_nothing(admin: MasterClient) -> None:
    assert admin.health().status == "ok" and admin.ready().status == "ready"
    status = admin.status()
    assert (status.workers, status.engines, status.streams, status.lease_requests) == ((), (), (), 0)


def test_the_master_answers_a_lease_request_with_an_address_and_a_ticket_for_that_engine(
    service: MasterService, admin: MasterClient
) -> None:
    admin.declare_stream(PLATES)
    controller = FakeController(admin, "w1")
    controller.report(e1=IDLE)
    grant = ask(admin, "s1")
    (lease,) = grant.leases
    assert (grant.route, lease.engine, lease.address, lease.term_s) == ("engine", "e1", ENGINE_ADDRESS, 60.0)
    key = tickets.derive_key(controller.key, "engine", "e1")
    claims = tickets.verify(key, lease.ticket, TicketKind.LEASE, wall_s=time.time())
    assert (claims.lease, claims.stream, claims.engine, claims.source) == (lease.lease, "plates", "e1", "s1")
    intake = service.master.office.verify_intake_ticket(grant.backlog.ticket)
    assert (intake.stream, intake.source) == ("plates", "s1")
    assert grant.backlog.address == service.data_address
    assert admin.status().lease_requests == 1


def test_the_master_tells_a_source_what_its_stream_is_like(admin: MasterClient) -> None:
    admin.declare_stream(dataclasses.replace(PLATES, engines=1, timeout_s=5.0, ordered=True, prefetch_s=2.0))
    grant = ask(admin, "s1")
    assert (grant.timeout_s, grant.is_ordered, grant.window_s) == (5.0, True, 2.0)


def test_when_all_engines_are_taken_the_answer_says_queue_until_one_is_free(admin: MasterClient) -> None:
    admin.declare_stream(PLATES)
    FakeController(admin, "w1").report(e1=IDLE, e2=IDLE)
    first = ask(admin, "s1", 2)
    assert (first.route, len(first.leases)) == ("engine", 2)
    assert ask(admin, "s1", 1).leases == () and ask(admin, "s1", 1).retry_after_s > 0
    shared = ask(admin, "s2")
    assert (shared.route, len(shared.leases)) == ("queue", 1)
    admin.release_leases(LeaseList("s2", (shared.leases[0].lease,)))
    admin.release_leases(LeaseList("s1", tuple(lease.lease for lease in first.leases)))
    assert ask(admin, "s3").route == "engine"


def test_light_load_uses_one_worker_and_the_other_is_removable(admin: MasterClient) -> None:
    admin.declare_stream(dataclasses.replace(PLATES, engines=10))
    FakeController(admin, "w1").report(**{f"w1-e{n}": IDLE for n in range(5)})
    FakeController(admin, "w2").report(**{f"w2-e{n}": IDLE for n in range(5)})
    engines = {ask(admin, f"s{n}").leases[0].engine[:2] for n in range(5)}
    assert engines == {"w1"}
    assert {view.worker: (view.busy, view.is_removable) for view in admin.workers()} == {
        "w1": (0, False),
        "w2": (0, True),
    }


def test_leases_are_renewed_and_an_unknown_one_has_ended(admin: MasterClient) -> None:
    admin.declare_stream(PLATES)
    FakeController(admin, "w1").report(e1=IDLE)
    lease = ask(admin, "s1").leases[0].lease
    renewal = admin.renew_leases(LeaseList("s1", (lease, "never-granted")))
    assert (renewal.renewed, renewal.ended) == ((lease,), ("never-granted",))


def test_a_held_request_for_desired_engines_is_answered_as_soon_as_they_change(
    service: MasterService, admin: MasterClient
) -> None:
    admin.declare_stream(PLATES)
    FakeController(admin, "w1").report()
    first = admin.desired("w1")
    assert [item.count for item in first.streams] == [2]
    answers: list[Desired] = []
    with client_of(service, Role.WORKER) as worker:
        waiting = threading.Thread(target=lambda: answers.append(worker.desired("w1", first.generation, wait_s=20.0)))
        began = time.monotonic()
        waiting.start()
        admin.scale_stream("plates", 4)
        waiting.join(timeout=10.0)
    assert [item.count for item in answers[0].streams] == [4] and time.monotonic() - began < 5.0


def test_a_held_request_without_a_change_is_answered_with_the_same_generation(admin: MasterClient) -> None:
    admin.declare_stream(PLATES)
    FakeController(admin, "w1").report()
    first = admin.desired("w1")
    assert admin.desired("w1", first.generation, wait_s=0.2) == first


def test_time_goes_on_after_a_tick_that_failed(
    service: MasterService, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = []

    def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 1:
            raise MemoryError("once")

    monkeypatch.setattr(service.master.backlog, "tick", tick)
    wait_until(lambda: len(ticks) > 1)
    (failed,) = [record for record in caplog.records if "tick" in record.getMessage()]
    assert failed.exc_info is not None


def test_a_held_request_is_answered_when_the_master_closes(tmp_path: Path, wait_until: WaitUntil) -> None:
    service = run_master(tmp_path)
    service.start()
    with client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        FakeController(admin, "w1").report()
        generation = admin.desired("w1").generation
        answers: list[Desired] = []
        waiting = threading.Thread(target=lambda: answers.append(admin.desired("w1", generation, wait_s=25.0)))
        waiting.start()
        wait_until(lambda: service.master.held_requests == 1)
        began = time.monotonic()
        service.close()
        waiting.join(timeout=10.0)
        assert answers[0].generation == generation and time.monotonic() - began < 5.0


def test_held_requests_are_capped_and_others_are_still_served(tmp_path: Path, wait_until: WaitUntil) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        FakeController(admin, "w1").report()
        generation = admin.desired("w1").generation
        clients = [client_of(service, Role.WORKER) for _ in range(64)]
        threads = [
            threading.Thread(target=client.desired, args=("w1", generation, 25.0), daemon=True) for client in clients
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.master.held_requests == 64)
        with pytest.raises(Unavailable, match="held") as refused:
            admin.desired("w1", generation, 25.0)
        assert refused.value.retry_after_s
        assert admin.status().version
        admin.scale_stream("plates", 3)
        for thread, client in zip(threads, clients, strict=True):
            thread.join(timeout=10.0)
            client.close()


def test_a_worker_that_falls_silent_is_lost_and_returns_with_its_next_report(
    admin: MasterClient, wait_until: WaitUntil
) -> None:
    admin.declare_stream(PLATES)
    controller = FakeController(admin, "w1")
    controller.report(e1=IDLE)
    lease = ask(admin, "s1").leases[0].lease
    wait_until(lambda: admin.engine("e1").state is Availability.LOST, timeout_s=5)
    assert admin.worker("w1").state == "lost"
    assert admin.renew_leases(LeaseList("s1", (lease,))).ended == (lease,)
    assert ask(admin, "s1").leases == ()
    controller.report(e1=IDLE)
    assert admin.worker("w1").state == "present" and len(ask(admin, "s1").leases) == 1


def test_another_worker_takes_over_the_engines_of_a_lost_one(admin: MasterClient, wait_until: WaitUntil) -> None:
    admin.declare_stream(PLATES)
    FakeController(admin, "w1").report(e1=IDLE, e2=IDLE)
    survivor = FakeController(admin, "w2")
    survivor.report()
    assert admin.desired("w2").streams == ()

    def taken_over() -> bool:
        survivor.report()
        return [item.count for item in admin.desired("w2").streams] == [2]

    wait_until(taken_over, timeout_s=5)


def test_exits_of_engines_of_streams_that_are_gone_are_heard_without_harm(admin: MasterClient) -> None:
    FakeController(admin, "w1")
    ended = tuple(EngineExit(f"e{n}", "gone", reason, held=("m1",)) for n, reason in enumerate(ExitReason))
    assert admin.report("w1", WorkerReport(1, (), exits=ended)).is_known
    assert admin.report("w1", WorkerReport(2, (), exits=ended)).is_known


def test_an_unknown_worker_is_told_to_register(admin: MasterClient) -> None:
    assert not admin.report("w9", WorkerReport(0, ())).is_known
    with pytest.raises(NotFound, match="w9"):
        admin.desired("w9")


def test_a_worker_that_stops_says_goodbye(admin: MasterClient) -> None:
    FakeController(admin, "w1").report(e1=IDLE)
    admin.leave_worker("w1")
    assert admin.workers() == () and admin.engines() == ()


def test_declaring_the_same_again_changes_nothing_and_a_change_is_a_new_version(admin: MasterClient) -> None:
    assert admin.declare_stream(PLATES).version == 1
    assert admin.declare_stream(PLATES).version == 1
    assert admin.declare_stream(dataclasses.replace(PLATES, timeout_s=5.0)).version == 2
    assert admin.scale_stream("plates", 7).declaration.version == 2
    view = admin.stream("plates")
    assert (view.desired, view.running, view.unplaced) == (7, 0, 7)
    admin.delete_stream("plates")
    assert admin.streams() == ()
    assert admin.declare_stream(PLATES).version == 3


@pytest.mark.parametrize(
    "bad",
    [
        StreamDeclaration("plates"),
        dataclasses.replace(PLATES, engines=-1),
        dataclasses.replace(PLATES, concurrency=0),
        dataclasses.replace(PLATES, ordered=True),
        dataclasses.replace(PLATES, plugins={"../x": {}}),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused(admin: MasterClient, bad: StreamDeclaration) -> None:
    with pytest.raises(InvalidInput):
        admin.declare_stream(bad)
    assert admin.streams() == ()


def test_a_setting_that_is_not_known_is_refused_by_rest_too(admin: MasterClient) -> None:
    with pytest.raises(InvalidInput, match="engine"):
        admin._tell("PUT", "/api/v1/streams/plates", {"name": "plates", "handler": "lab.plates", "engine": 2})
    assert admin.streams() == ()


@pytest.mark.parametrize("name", ["..", "../x", "a\0b", "a" * 4096, "ü", "a b"])
def test_a_name_that_cannot_be_used_is_refused(admin: MasterClient, name: str) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        admin.declare_stream(dataclasses.replace(PLATES, name=name))


def test_streams_tokens_and_versions_survive_a_restart(tmp_path: Path) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        declared = admin.declare_stream(dataclasses.replace(PLATES, parameters={"a": [1, None]}, plugins={"p": {}}))
        secret = admin.create_token("microscope", Role.SOURCE).secret
        key = FakeController(admin, "w1").key
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        assert [view.declaration for view in admin.streams()] == [declared]
        with MasterClient(service.url, secret) as source:
            assert source.streams()
        assert FakeController(admin, "w1").key == key, "running engines keep their keys"


def test_after_a_restart_leases_are_asked_for_anew_and_workers_settle_first(tmp_path: Path) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        FakeController(admin, "w2").report(e1=IDLE, e2=IDLE)
        before = ask(admin, "s1")
        generation = admin.desired("w2").generation
    options, clock = MasterOptions(tmp_path, port=0, data_port=0, settle_s=0.5), ManualClock(wall=time.time())
    with MasterService(options, clock=clock) as service, client_of(service, Role.ADMIN) as admin:
        lease = before.leases[0].lease
        assert admin.renew_leases(LeaseList("s1", (lease,))).ended == (lease,)
        FakeController(admin, "w1").report()
        with pytest.raises(Unavailable, match="not decided"):
            admin.desired("w1")
        FakeController(admin, "w2").report(e1=IDLE, e2=IDLE)
        assert ask(admin, "s1").leases[0].lease != lease
        clock.advance(0.6)
        desired = admin.desired("w2", generation, wait_s=20.0)
        assert desired.generation > generation and [item.count for item in desired.streams] == [2]
        assert admin.desired("w1").streams == ()


def test_revoking_all_leases_raises_the_epoch_for_good(tmp_path: Path) -> None:
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        FakeController(admin, "w1").report(e1=IDLE)
        grant = ask(admin, "s1")
        admin.revoke_all_leases()
        assert admin.renew_leases(LeaseList("s1", (grant.leases[0].lease,))).renewed == ()
        with pytest.raises(Exception, match="revoked"):
            service.master.office.verify_intake_ticket(grant.backlog.ticket)
    with run_master(tmp_path) as service, client_of(service, Role.ADMIN) as admin:
        assert admin.status().epoch == 2


def test_nobody_else_can_read_the_masters_secrets(service: MasterService) -> None:
    folder = service.options.data_folder
    token_files = sorted((folder / "tokens").iterdir())
    databases = sorted(folder.glob("master.sqlite*"))
    assert [path.stem for path in token_files] == ["admin", "source", "viewer", "worker"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*token_files, *databases]} == {0o600}
    folders = [folder, folder / "tokens", folder / "backlog"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    stored = b"".join(path.read_bytes() for path in databases)
    assert not any(path.read_bytes().strip() in stored for path in token_files)


def test_two_masters_cannot_share_a_data_folder(service: MasterService) -> None:
    with pytest.raises(Conflict, match="Another master"):
        run_master(service.options.data_folder)


def test_a_port_that_is_taken_is_one_clear_error(service: MasterService, tmp_path: Path) -> None:
    port = int(service.url.rsplit(":", 1)[1])
    with pytest.raises(Unavailable, match=f"Cannot listen on 127.0.0.1:{port}"):
        run_master(tmp_path / "other", port=port).start()


@pytest.mark.row("S6")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_bind_beyond_loopback_is_refused_unless_told_otherwise(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"without TLS.*insecure"):
        MasterService(MasterOptions(tmp_path, host=host))


def test_a_master_that_is_not_there_is_named_by_its_address() -> None:
    with MasterClient("http://127.0.0.1:9", "t") as client, pytest.raises(MasterUnavailable, match=r"127\.0\.0\.1:9"):
        client.status()


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    service = run_master(tmp_path)
    service.start()
    service.close()
    service.close()
    assert "close" in repr(service)
