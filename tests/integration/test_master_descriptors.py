"""A master has as many files open as its host allows, and one that can open no more serves those that it knows."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from benches.roles import Roles, free_ports
from harmonicio.control.client import MasterClient
from harmonicio.testing.waiting import wait_until

FEW, MORE = 120, 300


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_ports()


def limited(soft: int, hard: int) -> list[str]:
    return ["prlimit", f"--nofile={soft}:{hard}", "--"]


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_master_raises_its_limit_and_serves_more_connections_than_the_usual_one_allows(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *ports)
    with roles.running("master", on=limited(FEW, 4_000)) as master, ExitStack() as opened:
        wait_until(roles.is_up, 20)
        for _ in range(MORE):
            opened.enter_context(socket.create_connection(("127.0.0.1", ports[0])))
        wait_until(lambda: len(os.listdir(f"/proc/{master.pid}/fd")) > MORE, 20)
        assert roles.is_up()


def test_a_master_without_descriptors_neither_spins_nor_ends_and_goes_on_when_there_are_some(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *ports)
    with (
        roles.running("master", on=limited(FEW, FEW)) as master,
        MasterClient(roles.url) as known,
        ExitStack() as opened,
    ):
        wait_until(roles.is_up, 20)
        known.ready()
        for port in ports * (MORE // 2):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: len(os.listdir(f"/proc/{master.pid}/fd")) >= FEW - 1, 20)
        before_s = cpu_s(master.pid)
        begun = time.monotonic()
        while time.monotonic() < begun + 1.0:
            known.ready()  # Over the connection that it has; the selector comes round while others wait.
        asked_s = cpu_s(master.pid) - before_s
        before_s = cpu_s(master.pid)
        time.sleep(1.0)
        assert cpu_s(master.pid) - before_s < 0.5, f"it spins; while it was asked it used {asked_s:g} s"
        opened.close()
        wait_until(roles.is_up, 20)
        assert master.poll() is None
