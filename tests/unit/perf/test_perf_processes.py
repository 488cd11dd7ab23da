"""What the measurements start, and what they ask the kernel."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from micro import bare_store, raw_tcp
from micro.cluster import OwnProcess
from micro.machine import cpu_s, peak_memory_mb, threads_of
from micro.peers.base import Peer, Work, free_port, keep_window
from micro.peers.server import server

# A server that leaves a child of its own behind when it alone is told to end.
TWO_PROCESSES = """
import socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


def test_a_call_runs_in_a_process_of_its_own_and_what_it_raises_is_raised_here() -> None:
    with OwnProcess() as process:
        assert process.call(os.getpid) != os.getpid()
        assert process.call(os.getpid) == process.call(os.getpid)
        with pytest.raises(FileNotFoundError):
            process.call(os.listdir, "/nowhere")


def test_cpu_time_of_another_process_is_what_it_counts_itself() -> None:
    with OwnProcess() as process:
        pid = process.call(os.getpid)
        process.call(sum, range(2_000_000))
        theirs = process.call(time.process_time)
        assert theirs <= cpu_s(pid) < theirs + 1.0


def test_the_peak_of_memory_is_that_of_the_process_and_is_remembered() -> None:
    with OwnProcess() as process:
        pid = process.call(os.getpid)
        before_mb = peak_memory_mb(pid)
        process.call(bytearray, 50_000_000)
        assert peak_memory_mb(pid) > before_mb + 45
        assert threads_of(pid) >= 1


@pytest.mark.parametrize("how", ["memory", "sendfile", "read"])
def test_raw_tcp_delivers_every_message_whatever_it_is_sent_from(how: str, tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(bytes(100_000))
    run = raw_tcp.run(100_000, 20, 4, 2, [file], how)
    assert run.messages_per_s > 0
    assert run.cpu_s > 0


def test_latencies_are_taken_with_one_message_in_flight() -> None:
    assert len(raw_tcp.run(100, 30, 1, 1).latencies_s) == 30


def test_the_bare_loops_leave_nothing_behind(tmp_path: Path) -> None:
    assert bare_store.written_per_s(tmp_path, 1000, 9, 4) > 0
    assert bare_store.committed_per_s(tmp_path, 1000, 1100) > 0
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_whole_after_the_kernel_has_forgotten_them(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(bytes(10_000))
    bare_store.make_cold(files)
    assert bare_store.read_per_s(files) > 0
    assert [file.read_bytes() for file in files] == [bytes(10_000)] * 2


def test_a_source_never_has_more_under_way_than_its_window_and_waits_for_all_answers() -> None:
    under_way, most = 0, 0

    def send() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)

    def receive() -> int:
        nonlocal under_way
        answers = min(3, under_way)
        under_way -= answers
        return answers

    assert keep_window(Work(1, 8, 0.01, "w"), send, receive) > 0
    assert (under_way, most) == (0, 8)


def test_a_peer_that_is_not_installed_says_what_is_missing() -> None:
    peer = Peer("of nowhere", lambda work: 0.0, modules=("json", "nowhere_module"), programs=("nowhere-server",))
    assert peer.lacks == "not installed: nowhere_module, nowhere-server"
    assert Peer("here", lambda work: 0.0, modules=("json",)).lacks == ""


def test_a_server_ends_with_the_children_that_it_has_left_behind(
    tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    port = free_port()
    with server([sys.executable, "-c", TWO_PROCESSES, str(port)], port, tmp_path):
        child = int((tmp_path / "child").read_text())
        assert psutil.pid_exists(child)
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
