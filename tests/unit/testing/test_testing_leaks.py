"""The check for leaks sees each kind of thing that a test can leave behind, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harmonicio.testing.leaks import Holdings, leaks_since


def test_a_test_that_holds_nothing_new_has_no_leaks() -> None:
    before = Holdings.now()
    with socket.socket(), Path(__file__).open():
        pass
    assert leaks_since(before, grace_s=0) == []


def test_a_running_thread_is_a_leak_until_it_ends() -> None:
    before, may_end = Holdings.now(), threading.Event()
    thread = threading.Thread(target=may_end.wait, name="left behind")
    thread.start()
    assert leaks_since(before, grace_s=0) == ["thread 'left behind'"]
    may_end.set()
    thread.join()
    assert leaks_since(before, grace_s=0) == []


def test_an_open_socket_is_a_leak_until_it_is_closed() -> None:
    before = Holdings.now()
    with socket.socket():
        assert "socket:" in " ".join(leaks_since(before, grace_s=0))
    assert leaks_since(before, grace_s=0) == []


def test_an_open_file_is_a_leak_until_it_is_closed(tmp_path: Path) -> None:
    before = Holdings.now()
    with (tmp_path / "left-open").open("w"):
        assert "left-open" in " ".join(leaks_since(before, grace_s=0))
    assert leaks_since(before, grace_s=0) == []


def test_a_child_process_is_a_leak_until_somebody_waited_for_it() -> None:
    before = Holdings.now()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert f"process {child.pid} " in " ".join(leaks_since(before, grace_s=0))
        child.kill()
    assert leaks_since(before, grace_s=0) == []


def test_what_goes_away_within_the_grace_is_no_leak() -> None:
    before = Holdings.now()
    timer = threading.Timer(0.05, lambda: None)
    timer.start()
    assert leaks_since(before, grace_s=5) == []
    timer.join()


def test_a_file_that_only_a_cycle_holds_is_no_leak() -> None:
    before = Holdings.now()
    cycle: list[object] = [_ClosedWhenCollected()]
    cycle.append(cycle)
    del cycle
    assert leaks_since(before, grace_s=5) == []


class _ClosedWhenCollected:
    def __init__(self) -> None:
        self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._descriptor)


def test_the_check_is_enabled_for_this_suite(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin("harmonicio.testing.leaks")
