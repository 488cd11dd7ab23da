"""An engine that stands still for longer than it may have its message, alone or with its whole host, and goes on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.master.backlog import entry
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

WORKER = """
    import sys
    from pathlib import Path
    from harmonicio.control.client import MasterClient
    from harmonicio.worker.options import WorkerOptions
    from harmonicio.worker.service import WorkerService

    folder, name, url, token = Path(sys.argv[1]), *sys.argv[2:]
    options = WorkerOptions(name, folder / name, folder / "scratch", max_engines=1)
    service = WorkerService(options, MasterClient(url, token))
    service.start()
    sys.stdin.read()
    service.stop(5.0)
"""
#: The first that is given a message says who it is, and waits for the test; others are done at once.
HANDLER = """
    import os, time
    from pathlib import Path
    from harmonicio.engine import handler

    HERE = Path(__file__).parent

    @handler
    def hold(message):
        try:
            with open(HERE / "held by", "x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return {"focus": 0.8}
        while not (HERE / "go").exists():
            time.sleep(0.01)
        return {"focus": 0.2}
"""


@pytest.fixture
def master(tmp_path: Path) -> Iterator[MasterService]:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0)) as service:
        yield service


@pytest.fixture
def client(master: MasterService) -> Iterator[MasterClient]:
    with MasterClient(master.url, master.token_file(Role.ADMIN).read_text().strip()) as client:
        yield client


@contextmanager
def worker(folder: Path, name: str, master: MasterService) -> Iterator[subprocess.Popen[bytes]]:
    token = master.token_file(Role.WORKER).read_text().strip()
    command = [sys.executable, "-c", dedent(WORKER), str(folder), name, master.url, token]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if Path("/proc", str(pid)).exists():
                os.kill(pid, signal.SIGCONT)


def connect(master: MasterService) -> StreamConnector:
    token = master.token_file(Role.SOURCE).read_text().strip()
    return StreamConnector("s", master=master.url, token=token, patience_s=0.0)


def declare(client: MasterClient, folder: Path, *, engines: int, timeout_s: float) -> None:
    (folder / "hold.py").write_text(dedent(HANDLER))
    haste = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 0.5, "B"], [0.5, 1, "A"]]},
        "tiers": {name: {"folder": str(folder / "tiers" / name)} for name in ("A", "B", "unscored")},
    }
    handler = str(folder / "hold.py")
    client.declare_stream(
        StreamDeclaration("s", handler=handler, engines=engines, timeout_s=timeout_s, plugins={"haste": haste})
    )


def held_by(folder: Path) -> int:
    """Wait until an engine has the message; return its process id."""
    file = folder / "held by"
    return int(wait_until(lambda: file.exists() and file.read_text(), 30, what="an engine that has the message"))


def the_only_row(client: MasterClient, folder: Path) -> FeatureRow:
    """Return the one row, for which there is one copy in the tiers."""
    (row,) = MasterFeatureDatabase(client).rows(RowFilter("s"))
    copies = [path for path in (folder / "tiers").rglob("*") if path.is_file()]
    assert copies == [folder / "tiers" / row.tier / row.location]
    return row


@pytest.mark.row("F26")
def test_what_a_suspended_host_answers_late_is_fenced_off_and_recorded_and_there_is_one_copy(
    master: MasterService,
    client: MasterClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A suspended host's clock stands still: there the message has not run for long, and nobody ends the engine.
    monkeypatch.setattr(entry, "RESERVATION_MARGIN_S", -58.0)
    with ExitStack() as exits:
        workers = {name: exits.enter_context(worker(tmp_path, name, master)) for name in ("w-1", "w-2")}
        wait_until(lambda: len(client.workers()) == 2, 20, what="two workers")
        declare(client, tmp_path, engines=0, timeout_s=60.0)
        connector = exits.enter_context(connect(master))
        delivery = connector.send(b"pixels")
        connector.flush("safe", timeout_s=20)
        client.scale_stream("s", 2)
        pid = held_by(tmp_path)
        (engine,) = [each for each in client.engines() if each.pid == pid]
        with frozen(pid, workers[engine.worker].pid):
            assert delivery.result(timeout_s=30)["tier"] == "A"  # Another worker's engine has processed it.
            (tmp_path / "go").touch()
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: client.stream("s").backlog.late_total == 1, 30, what="the late outcome")
        assert f"`done` from {engine.engine}" in caplog.text
        row = the_only_row(client, tmp_path)
        assert (row.tier, row.engine != engine.engine) == ("A", True)
        wait_until(
            lambda: pid in {each.pid for each in client.engines() if each.state == "idle"}, 20, what="it to go on"
        )


def test_an_engine_that_is_frozen_alone_is_killed_by_its_controller_which_counts_an_attempt(
    master: MasterService, client: MasterClient, tmp_path: Path
) -> None:
    with ExitStack() as exits:
        exits.enter_context(worker(tmp_path, "w-1", master))
        declare(client, tmp_path, engines=1, timeout_s=2.0)
        delivery = exits.enter_context(connect(master)).send(b"pixels")
        pid = held_by(tmp_path)
        with frozen(pid):
            assert delivery.result(timeout_s=30)["tier"] == "A"
            assert {each.pid for each in client.engines() if each.state == "lost"} == {pid}, "and was replaced"
        assert (the_only_row(client, tmp_path).attempt, client.stream("s").backlog.late_total) == (2, 0)
