"""The master's decisions joined: who may send where, and who runs what."""

from __future__ import annotations

import dataclasses

import pytest

from harmonicio.control.messages import (
    Desired,
    EngineReport,
    LeaseRenewal,
    LeaseRequest,
    RunningMessage,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability
from harmonicio.core.errors import InvalidInput, NotFound
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.declaration_version import next_declaration
from harmonicio.master.directory import Directory
from harmonicio.master.leases import LeaseTable
from harmonicio.master.state import GrantDecision, MasterState

PLATES = StreamDeclaration("plates", handler="/handlers/plates.py", engines=2, version=1)


class Cluster:
    """A master's state, and workers that run what it desires."""

    def __init__(self, *streams: StreamDeclaration, settled_at: float = 0.0) -> None:
        self.state = MasterState(
            directory=Directory(lost_after_s=5.0),
            leases=LeaseTable(id_prefix="t", term_s=60.0),
            streams=streams,
            first_generation=100,
            settled_at=settled_at,
        )
        self._sequence = 0

    def join(self, worker: str, now: float, max_engines: int = 5, **engines: Availability) -> None:
        self.state.register(WorkerRegistration(worker, "127.0.0.1", max_engines, "memory", "1"), now)
        self.report(worker, now, **engines)

    def report(self, worker: str, now: float, *, stream: str = "plates", **engines: Availability) -> None:
        self._sequence += 1
        reports = tuple(
            EngineReport(
                name,
                stream,
                1,
                state,
                0.0,
                Address("127.0.0.1", 4000),
                running=(RunningMessage("m", 0.1),) if state is Availability.BUSY else (),
            )
            for name, state in engines.items()
        )
        assert self.state.report(worker, WorkerReport(self._sequence, reports), now).is_known

    def ask(self, source: str, count: int, now: float = 1.0, stream: str = "plates") -> GrantDecision:
        return self.state.request_leases(LeaseRequest(stream, source, count), now)

    def count(self, worker: str, stream: str = "plates") -> int | None:
        desired = self.state.desired(worker)
        if desired is None:
            return None
        return sum(item.count for item in desired.streams if item.declaration.name == stream)


IDLE, BUSY = Availability.IDLE, Availability.BUSY


def test_when_all_engines_are_taken_the_route_is_the_queue_until_one_is_given_back() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE, e2=IDLE)
    first = cluster.ask("s1", 2)
    assert first.route == "engine" and len(first.granted) == 2
    second = cluster.ask("s2", 1)
    assert second.route == "queue" and len(second.granted) == 1, "a shared lease, but nothing is free"
    cluster.state.release("s1", [granted.held.lease for granted in first.granted])
    cluster.state.release("s2", [granted.held.lease for granted in second.granted])
    assert cluster.ask("s3", 1).route == "engine"


def test_a_source_that_holds_every_engine_gets_no_lease_and_asks_again_later() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE)
    assert cluster.ask("s1", 1).retry_after_s == 0.0
    again = cluster.ask("s1", 1)
    assert again.granted == () and again.route == "queue" and again.retry_after_s > 0


def test_a_lease_whose_grant_never_reached_its_source_is_granted_again_at_once() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE, e2=IDLE)
    known = cluster.ask("s1", 1).granted[0].held
    lost = cluster.ask("s1", 1).granted[0].held
    again = cluster.state.request_leases(LeaseRequest("plates", "s1", 2, held=(known.lease,)), 2.0)
    assert again.route == "engine"
    assert [granted.held.engine for granted in again.granted] == [lost.engine]
    assert cluster.state.renew("s1", [known.lease, lost.lease], 3.0).ended == (lost.lease,)


def test_leases_run_out_by_themselves() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE)
    cluster.ask("s1", 1, now=1.0)
    cluster.report("w1", 60.9, e1=IDLE)
    assert cluster.ask("s2", 1, now=61.0).route == "engine"


def test_a_lease_ends_when_its_engine_drains() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE)
    lease = cluster.ask("s1", 1).granted[0].held.lease
    cluster.report("w1", 2.0, e1=Availability.DRAINING)
    assert cluster.state.renew("s1", [lease], 3.0) == LeaseRenewal((), (lease,))
    cluster.report("w1", 4.0)
    assert cluster.state.renew("s1", [lease], 5.0) == LeaseRenewal((), (lease,), gone=(lease,))


def test_the_engines_of_a_lost_worker_lose_their_leases_and_move() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE, e2=IDLE)
    cluster.join("w2", 0.0)
    assert (cluster.count("w1"), cluster.count("w2")) == (2, 0)
    lease = cluster.ask("s1", 1).granted[0].held.lease
    cluster.report("w2", 4.0)
    assert cluster.state.tick(5.5) == ("w1",)
    assert cluster.state.renew("s1", [lease], 5.6) == LeaseRenewal((), (lease,), gone=(lease,))
    assert (cluster.count("w1"), cluster.count("w2")) == (None, 2)
    assert [view.state for view in cluster.state.engine_views(6.0)] == [Availability.LOST] * 2


def test_a_worker_that_comes_back_alone_keeps_its_engines() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE, e2=IDLE)
    cluster.state.tick(10.0)
    cluster.report("w1", 11.0, e1=IDLE, e2=IDLE)
    assert cluster.count("w1") == 2 and cluster.ask("s1", 2, now=11.0).route == "engine"


def test_the_generation_changes_exactly_when_the_desired_engines_do() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0)
    cluster.join("w2", 0.0)
    before = {worker: cluster.state.desired(worker) for worker in ("w1", "w2")}
    cluster.state.put_stream(dataclasses.replace(PLATES, engines=3), 1.0)
    after = {worker: cluster.state.desired(worker) for worker in ("w1", "w2")}
    assert after["w2"] == before["w2"]
    assert isinstance(before["w1"], Desired) and isinstance(after["w1"], Desired)
    assert after["w1"].generation > before["w1"].generation > 100


def test_a_new_version_of_a_stream_is_a_new_generation() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0)
    before = cluster.state.desired("w1")
    cluster.state.put_stream(dataclasses.replace(PLATES, timeout_s=5.0, version=2), 1.0)
    after = cluster.state.desired("w1")
    assert before and after and after.generation > before.generation
    assert after.streams[0].declaration.version == 2


def test_after_a_restart_workers_of_before_come_back_before_anything_is_placed() -> None:
    cluster = Cluster(dataclasses.replace(PLATES, engines=4), settled_at=3.0)
    cluster.join("w1", 0.5, e1=IDLE, e2=IDLE)
    assert cluster.count("w1") is None and cluster.state.counts("plates").unplaced == 4
    cluster.join("w2", 1.0, f1=IDLE, f2=IDLE)
    cluster.state.tick(2.9)
    assert (cluster.count("w1"), cluster.count("w2")) == (None, None)
    cluster.state.tick(3.0)
    assert (cluster.count("w1"), cluster.count("w2")) == (2, 2)


def test_leases_are_given_while_the_master_settles() -> None:
    cluster = Cluster(PLATES, settled_at=3.0)
    cluster.join("w1", 0.5, e1=IDLE)
    assert cluster.ask("s1", 1).route == "engine"


def test_a_controller_that_registers_anew_keeps_its_place() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w2", 0.0, e1=IDLE, e2=IDLE)
    cluster.join("w1", 1.0)
    cluster.state.register(WorkerRegistration("w2", "127.0.0.1", 5, "memory", "1"), 2.0)
    cluster.state.put_stream(dataclasses.replace(PLATES, engines=3), 2.0)
    assert (cluster.count("w1"), cluster.count("w2")) == (0, 3)


def test_a_worker_that_leaves_hands_its_engines_on() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE)
    cluster.join("w2", 0.0)
    cluster.state.leave("w1", 1.0)
    assert cluster.count("w2") == 2
    with pytest.raises(NotFound):
        cluster.state.desired("w1")
    with pytest.raises(NotFound):
        cluster.state.leave("w1", 1.0)


def test_an_ordered_stream_is_never_leased() -> None:
    cluster = Cluster(dataclasses.replace(PLATES, engines=1, ordered=True))
    cluster.join("w1", 0.0, e1=IDLE)
    decision = cluster.ask("s1", 1)
    assert decision.granted == () and decision.route == "queue"


def test_deleting_a_stream_ends_its_leases_and_its_engines() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE)
    lease = cluster.ask("s1", 1).granted[0].held.lease
    cluster.state.drop_stream("plates", 2.0)
    assert cluster.state.renew("s1", [lease], 3.0).ended == (lease,)
    assert cluster.state.desired("w1") == Desired(cluster.state.desired("w1").generation, ())  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        cluster.ask("s1", 1)


@pytest.mark.parametrize(("source", "count"), [("../s", 1), ("s" * 101, 1), ("s1", -1), ("s1", 1_001)])
def test_a_lease_request_that_cannot_be_used_is_refused(source: str, count: int) -> None:
    with pytest.raises(InvalidInput):
        Cluster(PLATES).ask(source, count)


def test_a_worker_is_removable_when_nothing_of_it_is_used() -> None:
    cluster = Cluster(PLATES)
    cluster.join("w1", 0.0, e1=IDLE, e2=BUSY)
    cluster.join("w2", 0.0, f1=IDLE)
    cluster.join("w3", 0.0, g1=IDLE)
    cluster.ask("s1", 2)  # each worker has one free engine: first that of the used worker, then w2 by name
    views = {view.worker: view for view in cluster.state.worker_views(1.0)}
    assert {name: view.is_removable for name, view in views.items()} == {"w1": False, "w2": False, "w3": True}
    assert views["w1"].busy == 1 and views["w1"].engines == 2


def test_counts_say_what_a_stream_wants_has_and_misses() -> None:
    cluster = Cluster(dataclasses.replace(PLATES, engines=4))
    cluster.join("w1", 0.0, max_engines=3, e1=IDLE, e2=BUSY, e3=Availability.STARTING)
    counts = cluster.state.counts("plates")
    assert (counts.desired, counts.running, counts.unplaced) == (4, 2, 1)


def test_an_identical_declaration_keeps_its_version() -> None:
    assert next_declaration(dataclasses.replace(PLATES, version=0), PLATES, 7) == PLATES


def test_scaling_keeps_the_version_so_that_no_engine_is_restarted() -> None:
    assert next_declaration(dataclasses.replace(PLATES, engines=9), PLATES, 7).version == PLATES.version


def test_any_other_change_counts_the_version_up_and_never_reuses_one() -> None:
    assert next_declaration(dataclasses.replace(PLATES, timeout_s=1.0), PLATES, 1).version == 2
    assert next_declaration(PLATES, None, 7).version == 8
