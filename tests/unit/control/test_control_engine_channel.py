"""The control connection between a controller and an engine."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harmonicio.control import engine_channel
from harmonicio.control.engine_channel import (
    MAX_LINE_BYTES,
    ControllerChannel,
    ControlListener,
    EngineChannel,
    dial_controller,
)
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.control.messages import EngineReport, RunningMessage
from harmonicio.core.engine import Availability
from harmonicio.core.errors import ConnectionEnded

REPORT = EngineReport("e-1", "images", 3, Availability.BUSY, 0.5, running=(RunningMessage("m-1", 0.25),), handled=7)


@contextlib.contextmanager
def connected(folder: Path) -> Iterator[tuple[EngineChannel, ControllerChannel]]:
    listener = ControlListener(folder / "control.sock")
    engine = dial_controller(folder / "control.sock")
    controller = accepted(listener)
    try:
        yield engine, controller
    finally:
        for each in (engine, controller, listener):
            each.close()


def accepted(listener: ControlListener) -> ControllerChannel:
    assert select.select([listener], [], [], 5)[0]
    channel = listener.accept()
    assert channel is not None
    return channel


def reports(controller: ControllerChannel) -> list[EngineReport]:
    assert select.select([controller], [], [], 5)[0]
    return controller.receive_reports()


def raw_pair() -> tuple[socket.socket, ControllerChannel]:
    near, far = socket.socketpair()
    return near, ControllerChannel(far)


def test_reports_go_up_and_orders_come_down(tmp_path: Path) -> None:
    with connected(tmp_path) as (engine, controller):
        assert controller.receive_reports() == []
        engine.send_report(REPORT)
        engine.send_report(REPORT)
        received = reports(controller)
        while len(received) < 2:
            received += reports(controller)
        assert received == [REPORT, REPORT]
        controller.send_order(EngineOrder(2.5))
        controller.send_order(EngineOrder(0.0))
        assert engine.receive_order(5) == EngineOrder(2.5)
        assert engine.receive_order(5) == EngineOrder(0.0)
        assert engine.receive_order(0.01) is None


def test_a_folder_with_a_long_path_takes_a_control_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / ("longer" * 20)
    folder.mkdir(parents=True)
    with connected(folder) as (engine, controller):
        engine.send_report(REPORT)
        assert reports(controller) == [REPORT]
    assert list(folder.iterdir()) == []


def test_a_socket_is_its_owners_only_from_the_beginning(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        listener = ControlListener(tmp_path / "control.sock")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
    listener.close()


class Swapped(socket.socket):
    """The socket of a listener whose engine replaces it by a link as soon as it is there."""

    def bind(self, address: Any) -> None:
        super().bind(address)
        Path(address).unlink()
        Path(address).symlink_to("../victim")


def test_an_engine_that_replaces_the_socket_by_a_link_gets_nothing_of_what_that_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").touch(mode=0o640)
    (tmp_path / "socket").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "socket", 10001, 10001)
    before = (tmp_path / "victim").stat()
    with monkeypatch.context() as swapping:
        swapping.setattr(socket, "socket", Swapped)
        listener = ControlListener(tmp_path / "socket" / "control.sock")
    listener.close()
    after = (tmp_path / "victim").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(tmp_path / "socket") == []


def test_a_listener_closes_whatever_lies_where_its_socket_was(tmp_path: Path) -> None:
    listener = ControlListener(tmp_path / "control.sock")
    (tmp_path / "control.sock").unlink()
    (tmp_path / "control.sock" / "in").mkdir(parents=True)
    listener.close()
    assert "closed" in repr(listener)
    with pytest.raises(ConnectionEnded, match="cannot take a control socket"):
        ControlListener(tmp_path / "control.sock")


def test_a_socket_that_a_dead_controller_left_behind_is_replaced(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(tmp_path / "control.sock"))
    with pytest.raises(ConnectionEnded, match="No controller listens"):
        dial_controller(tmp_path / "control.sock")
    with connected(tmp_path) as (engine, controller):
        engine.send_report(REPORT)
        assert reports(controller) == [REPORT]


def test_dialling_where_nobody_ever_listened_is_an_ended_connection(tmp_path: Path) -> None:
    with pytest.raises(ConnectionEnded, match="No controller listens"):
        dial_controller(tmp_path / "missing" / "control.sock")


def test_a_folder_that_does_not_exist_takes_no_control_socket(tmp_path: Path) -> None:
    with pytest.raises(ConnectionEnded, match="cannot take a control socket"):
        ControlListener(tmp_path / "missing" / "control.sock")


def test_a_listener_without_callers_accepts_nobody(tmp_path: Path) -> None:
    listener = ControlListener(tmp_path / "control.sock")
    assert listener.accept() is None
    listener.close()
    listener.close()
    with pytest.raises(ConnectionEnded):
        listener.accept()


def test_either_end_hears_that_the_other_has_gone(tmp_path: Path) -> None:
    with connected(tmp_path) as (engine, controller):
        controller.close()
        with pytest.raises(ConnectionEnded):
            engine.receive_order(5)
    with connected(tmp_path) as (engine, controller):
        engine.close()
        with pytest.raises(ConnectionEnded):
            reports(controller)
        with pytest.raises(ConnectionEnded):
            controller.send_order(EngineOrder(1))


def test_closing_wakes_the_thread_that_waits_for_an_order(tmp_path: Path) -> None:
    with connected(tmp_path) as (engine, _), ThreadPoolExecutor(1) as pool:
        is_waiting = threading.Event()

        def wait() -> EngineOrder | None:
            is_waiting.set()
            return engine.receive_order(60)

        waiting = pool.submit(wait)
        assert is_waiting.wait(5)
        engine.close()
        with pytest.raises(ConnectionEnded):
            waiting.result(5)


def test_a_report_that_arrives_in_pieces_is_one_report() -> None:
    near, controller = raw_pair()
    with contextlib.closing(near), contextlib.closing(controller):
        line = engine_channel._line_of(REPORT)
        for at in range(len(line) - 1):
            near.send(line[at : at + 1])
            assert controller.receive_reports() == []
        near.send(line[-1:])
        assert controller.receive_reports() == [REPORT]


@pytest.mark.parametrize(
    "garbage", [b"what?\n", b"[]\n", b"\n", b'{"engine": 7}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"]
)
def test_a_line_that_is_no_report_ends_the_connection(garbage: bytes) -> None:
    near, controller = raw_pair()
    with contextlib.closing(near), contextlib.closing(controller):
        near.sendall(garbage)
        with pytest.raises(ConnectionEnded, match="carried something else"):
            while True:
                controller.receive_reports()


def test_a_line_without_an_end_is_not_collected_for_ever() -> None:
    near, controller = raw_pair()
    with contextlib.closing(near), contextlib.closing(controller):
        sent = 0
        with pytest.raises(ConnectionEnded, match="longer than"):
            while sent <= 2 * MAX_LINE_BYTES:
                sent += near.send(b" " * 10_000)
                controller.receive_reports()
        assert sent <= MAX_LINE_BYTES + 100_000


def test_a_report_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    running = tuple(RunningMessage(f"{at:0200d}", 0.0) for at in range(6000))
    huge = EngineReport("e-1", "images", 1, Availability.BUSY, 0.0, running=running)
    with connected(tmp_path) as (engine, _), pytest.raises(ConnectionEnded, match="too long"):
        engine.send_report(huge)


def test_a_controller_that_reads_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_channel, "SEND_TIMEOUT_S", 0.05)
    with connected(tmp_path) as (engine, _):
        with pytest.raises(ConnectionEnded):
            for _ in range(100_000):
                engine.send_report(REPORT)
        with pytest.raises(ConnectionEnded):
            engine.receive_order(0)


def test_an_engine_that_reads_no_orders_does_not_hold_the_controller_up(tmp_path: Path) -> None:
    with connected(tmp_path) as (_, controller), pytest.raises(ConnectionEnded, match="does not read"):
        for _ in range(1_000_000):
            controller.send_order(EngineOrder(1))
