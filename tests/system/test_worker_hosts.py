"""Two hosts under one master: one fills up before the other is used, and one takes over when the other is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerView
from harmonicio.core.engine import Availability
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

LOST_AFTER_S = 2.0
HANDLER = """
    import time
    from harmonicio.engine import handler

    @handler
    def work(message):
        time.sleep(message.metadata.get("seconds", 0.0))
        return message.priority
"""


class Cluster:
    """A master, an administrator's client, and hosts that come and go."""

    def __init__(self, folder: Path, master: MasterService, client: MasterClient) -> None:
        self.client = client
        self._folder = folder
        self._master = master
        (folder / "work.py").write_text(dedent(HANDLER))

    def token(self, role: Role) -> str:
        return self._master.token_file(role).read_text().strip()

    def host(self, name: str, *, max_engines: int) -> WorkerService:
        folder = self._folder / name
        options = WorkerOptions(
            name, folder / "worker", folder / "scratch", max_engines=max_engines, orphan_after_s=5.0
        )
        service = WorkerService(options, MasterClient(self._master.url, self.token(Role.WORKER)))
        service.start()
        return service

    @contextmanager
    def running(self, name: str, *, max_engines: int) -> Iterator[WorkerService]:
        service = self.host(name, max_engines=max_engines)
        try:
            yield service
        finally:
            service.stop(5.0)

    def declare(self, engines: int, **fields: object) -> None:
        declared = StreamDeclaration("work", handler=str(self._folder / "work.py"), engines=engines, **fields)
        self.client.declare_stream(declared)

    def wait_for_engines(self, count: int) -> None:
        wait_until(lambda: self.client.stream("work").running == count, 30, what=f"{count} engines")

    def connect(self, **options: object) -> StreamConnector:
        return StreamConnector(stream="work", master=self._master.url, token=self.token(Role.SOURCE), **options)

    def worker(self, name: str) -> WorkerView:
        return next(view for view in self.client.workers() if view.worker == name)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0, lost_after_s=LOST_AFTER_S)
    with ExitStack() as parts:
        master = parts.enter_context(MasterService(options))
        token = master.token_file(Role.ADMIN).read_text().strip()
        client = parts.enter_context(MasterClient(master.url, token))
        yield Cluster(tmp_path, master, client)


@pytest.mark.timeout(90)
def test_under_light_load_one_host_is_used_and_the_other_can_be_removed(cluster: Cluster) -> None:
    with cluster.running("w1", max_engines=5), cluster.running("w2", max_engines=5):
        wait_until(lambda: all(each.state == "present" for each in cluster.client.workers()), 10)
        cluster.declare(10)
        cluster.wait_for_engines(10)
        assert [cluster.worker(name).engines for name in ("w1", "w2")] == [5, 5]
        with cluster.connect(patience_s=30.0) as connector:
            for _ in range(20):
                connector.send(b"image", metadata={"seconds": 0.05}).result(10)
            wait_until(lambda: sum(view.handled for view in cluster.client.engines()) == 20, 5, what="the figures")
            used = {view.worker for view in cluster.client.engines() if view.handled}
            assert len(used) == 1, "one host is used"
            (idle,) = {"w1", "w2"} - used
            spared = cluster.worker(idle)
            assert (spared.busy, spared.is_removable) == (0, True)
            assert not cluster.worker(used.pop()).is_removable


@pytest.mark.timeout(90)
def test_when_a_host_is_lost_another_one_takes_over_from_the_masters_records_alone(cluster: Cluster) -> None:
    first = cluster.host("w1", max_engines=2)
    try:
        cluster.declare(2)
        cluster.wait_for_engines(2)
        with cluster.connect(patience_s=0.05) as connector:
            deliveries = [connector.send(b"image", metadata={"seconds": 0.1}, priority=n % 3) for n in range(60)]
            wait_until(lambda: cluster.client.stream("work").backlog.stored_total > 0, 10, what="a backlog")
            lost = {view.engine: view.pid for view in cluster.client.engines()}
            first.abandon()
            for pid in lost.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            wait_until(lambda: cluster.worker("w1").state == "lost", LOST_AFTER_S + 3, what="the loss to be noticed")
            assert {view.state for view in cluster.client.engines()} == {Availability.LOST}
            with cluster.running("w2", max_engines=2):
                cluster.wait_for_engines(2)
                connector.flush("processed", timeout_s=60)
                assert [delivery.result(1) for delivery in deliveries] == [n % 3 for n in range(60)]
                alive = {view.worker for view in cluster.client.engines() if view.state is not Availability.LOST}
                assert alive == {"w2"}
    finally:
        first.stop(0.0)


@pytest.mark.timeout(60)
def test_a_killed_engine_is_shown_as_lost_at_once_and_another_one_replaces_it(cluster: Cluster) -> None:
    with cluster.running("w1", max_engines=2):
        cluster.declare(2)
        cluster.wait_for_engines(2)
        victim = cluster.client.engines()[0]
        os.kill(victim.pid, signal.SIGKILL)
        since = time.monotonic()
        wait_until(lambda: cluster.client.engine(victim.engine).state is Availability.LOST, 5, what="lost")
        assert time.monotonic() - since < LOST_AFTER_S
        shown = cluster.client.engine(victim.engine)
        assert (shown.worker, shown.stream, shown.leases, shown.address) == ("w1", "work", 0, None)
        cluster.wait_for_engines(2)
        assert cluster.worker("w1").engines == 2


@pytest.mark.timeout(90)
def test_a_message_that_never_ends_is_a_dead_letter_and_its_neighbours_are_processed_free_of_charge(
    cluster: Cluster,
) -> None:
    with cluster.running("w1", max_engines=1):
        cluster.declare(1, concurrency=2, timeout_s=1.0, max_attempts=2, max_crashes=1)
        cluster.wait_for_engines(1)
        with cluster.connect() as connector:
            stuck = connector.send(b"", metadata={"seconds": 3600.0})
            others = [connector.send(b"", metadata={"seconds": 0.3}, priority=1) for _ in range(12)]
            assert [each.result(60) for each in others] == [1] * 12
            with pytest.raises(HandlerFailed, match="too long"):
                stuck.result(60)
        view = cluster.client.outcome("work", stuck.message_id)
        assert (view.state, view.attempts) == ("dead", 2)
        figures = cluster.client.stream("work").backlog
        assert (figures.dead, figures.ready, figures.reserved) == (1, 0, 0)
        for each in others:
            if each.route == "backlog":
                assert cluster.client.outcome("work", each.message_id).attempts == 1, "only its own execution counts"
