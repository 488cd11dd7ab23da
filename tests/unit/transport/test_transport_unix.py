"""UNIX sockets: where they are found, and what comes along with the first bytes."""

from __future__ import annotations

import array
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import unix
from harmonicio.transport.unix import UnixChannel

LISTENER = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen(); print("here", flush=True)
time.sleep(60)
"""


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[UnixChannel, UnixChannel]]:
    listener = unix.listen(tmp_path / "data.sock")
    dialled = unix.dial(str(tmp_path / "data.sock"))
    accepted = unix.accept(listener)
    assert accepted is not None
    listener.close()
    yield dialled, accepted
    dialled.close()
    accepted.close()


def received(channel: UnixChannel, count: int) -> bytes:
    buffer, filled = memoryview(bytearray(100)), 0
    while filled < count:
        filled += channel.receive_into(buffer[filled:]) or 0
    return bytes(buffer[:filled])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def send_descriptors(channel: UnixChannel, data: bytes, descriptors: list[int]) -> None:
    """As a peer may who does not keep to the rules."""
    with socket.socket(fileno=os.dup(channel.fileno())) as sock:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        sock.sendmsg([data], [rights])


def test_a_descriptor_comes_with_the_first_bytes(ends: tuple[UnixChannel, UnixChannel], tmp_path: Path) -> None:
    dialled, accepted = ends
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as file:
        dialled.send_with_descriptor(b"hello", file.fileno())
    assert received(accepted, 5) == b"hello"
    descriptor = accepted.take_descriptor()
    assert descriptor is not None
    assert os.read(descriptor, 10) == b"content"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert accepted.take_descriptor() is None


def test_a_descriptor_that_nobody_takes_is_closed_with_the_channel(ends: tuple[UnixChannel, UnixChannel]) -> None:
    dialled, accepted = ends
    before = open_files()
    dialled.send_with_descriptor(b"hello", 0)
    assert received(accepted, 5) == b"hello"
    assert open_files() == before + 1
    accepted.close()
    assert open_files() == before - 1


def test_more_descriptors_than_one_are_not_kept(ends: tuple[UnixChannel, UnixChannel]) -> None:
    dialled, accepted = ends
    before = open_files()
    for _ in range(5):
        send_descriptors(dialled, b"x" * 10, [0] * 20)
    assert received(accepted, 50) == b"x" * 50
    assert open_files() == before + 1


def test_descriptors_after_the_greeting_or_to_who_dialled_are_not_even_opened(
    ends: tuple[UnixChannel, UnixChannel],
) -> None:
    dialled, accepted = ends
    before = open_files()
    accepted.take_descriptor()
    for sender, receiver in ((dialled, accepted), (accepted, dialled)):
        send_descriptors(sender, b"hello", [0, 0])
        assert received(receiver, 5) == b"hello"
        assert receiver.take_descriptor() is None
    assert open_files() == before


def test_any_path_can_be_listened_on_and_dialled(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    path = folder / "data.sock"
    path.write_text("left behind")
    listener = unix.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    channel = unix.dial(str(path))
    channel.close()
    listener.close()


def test_nobody_is_led_to_another_socket_by_a_link(tmp_path: Path) -> None:
    listener = unix.listen(tmp_path / "another.sock")
    (tmp_path / "data.sock").symlink_to(tmp_path / "another.sock")
    with pytest.raises(ConnectionEnded, match=r"data\.sock"):
        unix.dial(str(tmp_path / "data.sock"))
    listener.close()


@pytest.mark.parametrize("left", ["nothing", "a file", "a socket that nobody listens on"])
def test_where_nobody_listens_that_is_said_at_once(tmp_path: Path, left: str) -> None:
    path = tmp_path / "data.sock"
    if left == "a file":
        path.write_text("")
    elif left != "nothing":
        unix.listen(path).close()
    with pytest.raises(ConnectionEnded, match=r"No data connection to .*data\.sock"):
        unix.dial(str(path))


def test_a_folder_that_takes_no_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=str(tmp_path / "missing")):
        unix.listen(tmp_path / "missing" / "data.sock")


@pytest.mark.parametrize("has_kernel_call", [True, False], ids=["by the socket", "by the number of the process"])
def test_the_end_of_the_process_at_the_other_end_is_told(
    tmp_path: Path, has_kernel_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernel_call:
        monkeypatch.setattr(unix, "_PEER_PIDFD", 9999)
    path = tmp_path / "data.sock"
    with subprocess.Popen([sys.executable, "-c", LISTENER, str(path)], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"here\n"
        channel = unix.dial(str(path))
        process = channel.open_peer_process()
        channel.close()
        assert process is not None
        assert not unix.is_ended(process)
        listener.kill()
        wait_until(lambda: unix.is_ended(process))
        os.close(process)
