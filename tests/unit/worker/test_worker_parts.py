"""The small parts of a worker: runtimes by name, its folder, what engines are given, and their control connections."""

from __future__ import annotations

import fcntl
import os
import selectors
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from benches.certificates import identity_of, showing
from harmonicio.control import tickets
from harmonicio.control.engine_channel import dial_controller
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.control.locked_folder import is_in_use
from harmonicio.control.messages import EngineReport, WorkerWelcome
from harmonicio.core.engine import Availability
from harmonicio.core.errors import ConfigurationError, Conflict
from harmonicio.core.lease import Address, TicketKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.worker.control_desk import ControlDesk
from harmonicio.worker.folder import DataFolder
from harmonicio.worker.host_load import HostMeter
from harmonicio.worker.outfit import Outfitter
from harmonicio.worker.runtimes import open_runtime
from harmonicio.worker.runtimes.base import RuntimeContext
from harmonicio.worker.runtimes.memory import MemoryRuntime

IMAGES = StreamDeclaration("images", handler="images.py", version=1)
WELCOME = WorkerWelcome(1.0, tickets.new_key(), Address("10.0.0.1", 8711))


# ── runtimes by name ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_runtime_is_opened_by_name(tmp_path: Path) -> None:
    with open_runtime("memory", RuntimeContext(tmp_path, print)) as runtime:
        assert isinstance(runtime, MemoryRuntime)


def test_an_unknown_runtime_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no runtime 'abacus'\. Known are docker, memory, process"):
        open_runtime("abacus", RuntimeContext(tmp_path, print))


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_folder_is_for_one_owner_and_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "worker")
    with pytest.raises(Conflict):
        DataFolder(tmp_path / "worker")
    assert stat.S_IMODE(folder.engines.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.add("e-1", "bond").stat().st_mode) == 0o700
    folder.close()
    folder.close()
    DataFolder(tmp_path / "worker").close()


def test_who_looks_whether_a_folder_is_in_use_keeps_nobody_from_using_it(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path, "worker")
    with closing(DataFolder(tmp_path)):
        assert is_in_use(tmp_path, "worker")
    assert not is_in_use(tmp_path, "worker")
    with open(tmp_path / "worker.lock") as looking, ThreadPoolExecutor(1) as pool:
        fcntl.flock(looking, fcntl.LOCK_SH)
        beginning = pool.submit(DataFolder, tmp_path)
        with pytest.raises(TimeoutError):
            beginning.result(0.1)
        fcntl.flock(looking, fcntl.LOCK_UN)
        beginning.result(10).close()


def test_the_folder_remembers_bonds_until_an_engine_is_removed(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.add("e-1", "one")
    folder.add("e-2", "two")
    assert (folder.bond("e-1"), folder.bond("e-2"), folder.bond("e-3")) == ("one", "two", "")
    folder.remove("e-2")
    folder.remove("e-2")
    folder.add("e-stranger", "")
    folder.remove_strangers({"e-1"})
    folder.close()
    assert os.listdir(folder.engines) == ["e-1"]


# ── what engines are given ───────────────────────────────────────────────────────────────────────────────────────────


def outfitter(
    worker: str = "w-1", url: str = "http://10.0.0.1:8710", tls: TlsCredentials = NO_CREDENTIALS
) -> Outfitter:
    return Outfitter(worker, url, "10.0.0.2", Path("/scratch"), payload_budget_bytes=7, orphan_after_s=3.0, tls=tls)


def test_an_engine_gets_a_key_and_a_ticket_that_its_master_believes() -> None:
    given = outfitter().configuration("e-1", IMAGES, WELCOME, control_socket=Path("/e-1/control.sock"), wall_s=1000.0)
    assert given.key == tickets.derive_key(WELCOME.ticket_key, "engine", "e-1")
    claims = tickets.verify(given.key, given.ticket, TicketKind.ENGINE, wall_s=2000.0)
    assert (claims.engine, claims.stream) == ("e-1", "images")
    assert (given.engine, given.worker, given.declaration) == ("e-1", "w-1", IMAGES)
    assert (given.master_url, given.master_data) == ("http://10.0.0.1:8710", Address("10.0.0.1", 8711))
    assert (given.listen_host, given.scratch_folder) == ("10.0.0.2", "/scratch")
    assert given.control_socket == "/e-1/control.sock"


def test_an_engine_gets_its_certificate_and_key_and_shows_neither() -> None:
    identity = identity_of(trustme.CA(), "10.0.0.2")
    own = outfitter(tls=TlsCredentials.of(identity))
    given = own.configuration("e-1", IMAGES, WELCOME, control_socket=Path("/c"), wall_s=1000.0)
    assert given.tls == identity
    assert identity.key not in repr(given) and "PRIVATE" not in repr(given)


def test_everything_that_ties_an_engine_to_its_master_changes_the_bond() -> None:
    bond = outfitter().bond(WELCOME)
    assert bond == outfitter().bond(WorkerWelcome(9.0, WELCOME.ticket_key, WELCOME.data_address))
    others = {
        outfitter(worker="w-2").bond(WELCOME),
        outfitter(url="http://10.0.0.9:8710").bond(WELCOME),
        outfitter().bond(WorkerWelcome(1.0, tickets.new_key(), WELCOME.data_address)),
        outfitter().bond(WorkerWelcome(1.0, WELCOME.ticket_key, Address("10.0.0.1", 1))),
        outfitter().bond(WorkerWelcome(1.0, WELCOME.ticket_key, replace(WELCOME.data_address, speaks_tls=True))),
        outfitter(tls=showing(trustme.CA(), "10.0.0.2")).bond(WELCOME),
    }
    assert len(others | {bond}) == 7
    assert WELCOME.ticket_key not in bond


def test_an_engine_goes_on_when_the_certificate_of_its_host_is_renewed() -> None:
    authority = trustme.CA()
    bonds = {outfitter(tls=showing(authority, "10.0.0.2")).bond(WELCOME) for _ in range(2)}
    assert len(bonds) == 1


# ── control connections ──────────────────────────────────────────────────────────────────────────────────────────────


class Desk:
    """A desk with engines that dial it."""

    def __init__(self, folder: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.desk = ControlDesk(self.selector)
        self.path = self.desk.open("e-1", folder)

    def serve(self, count: int) -> list[EngineReport]:
        """Serve until so many reports have come."""
        reports: list[EngineReport] = []
        deadline = time.monotonic() + 10
        while len(reports) < count and time.monotonic() < deadline:
            for key, _ in self.selector.select(0.1):
                reports += self.desk.serve(key.data)
        return reports

    def close(self) -> None:
        self.desk.close_all()
        self.selector.close()


def report(engine: str = "e-1", handled: int = 0) -> EngineReport:
    return EngineReport(engine, "images", 1, Availability.IDLE, 0.0, handled=handled)


def test_an_engine_speaks_for_itself_only(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    engine = dial_controller(desk.path)
    engine.send_report(report("e-2"))
    engine.send_report(report("e-1"))
    assert desk.serve(1) == [report("e-1")]
    engine.close()
    desk.close()


def test_an_order_goes_to_the_connection_that_the_engine_dialled_last(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert not desk.desk.drain("e-1", 1.0)
    earlier = dial_controller(desk.path)
    earlier.send_report(report())
    desk.serve(1)
    later = dial_controller(desk.path)
    earlier.send_report(report(handled=1))
    earlier.close()
    later.send_report(report(handled=2))
    assert desk.serve(1)[-1].handled in (1, 2)
    desk.serve(0)
    assert desk.desk.drain("e-1", 2.5)
    assert later.receive_order(5) == EngineOrder(2.5)
    later.close()
    desk.close()


def test_what_the_master_said_last_of_its_epoch_is_told_to_engines_that_are_connected_or_come(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    earlier = dial_controller(desk.path)
    earlier.send_report(report())
    desk.serve(1)
    for epoch in (3, 3, 2):  # The master's folder was restored in between.
        desk.desk.announce_epoch(epoch)
    assert [earlier.receive_order(5), earlier.receive_order(5)] == [EngineOrder(epoch=3), EngineOrder(epoch=2)]
    assert earlier.receive_order(0.01) is None
    later = dial_controller(desk.path)
    later.send_report(report())
    desk.serve(1)
    assert later.receive_order(5) == EngineOrder(epoch=2)
    earlier.close()
    later.close()
    desk.close()


def test_what_an_ended_engine_said_last_is_still_heard(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    engine = dial_controller(desk.path)
    for number in range(20):
        engine.send_report(report(handled=number))
    engine.close()
    assert [each.handled for each in desk.desk.last_words("e-1")] == list(range(20))
    assert desk.desk.last_words("e-1") == []
    assert desk.desk.last_words("e-unknown") == []
    assert not desk.desk.drain("e-1", 1.0)
    desk.close()


def test_a_closed_engine_leaves_no_socket(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.desk.close("e-1")
    desk.desk.close("e-1")
    assert not desk.path.exists()
    desk.close()


# ── the host ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_host_is_measured_at_most_once_a_second(tmp_path: Path) -> None:
    meter = HostMeter(tmp_path / "not" / "there" / "yet")
    load = meter.measure()
    assert 0.0 <= load.cpu_fraction <= 1.0
    assert 0 < load.memory_used_bytes < load.memory_total_bytes
    assert load.disk_free_bytes > 0
    assert meter.measure() is load
