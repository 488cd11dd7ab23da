"""An engine that is dialled over its UNIX socket, by peers that keep to the rules of shared memory and by others."""

from __future__ import annotations

import array
import hashlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benches.engine import ECHO, Bench, Start, engine_benches
from harmonicio.core.errors import ConnectionEnded, NotAllowed
from harmonicio.engine.reception import ARENA_BUDGETS
from harmonicio.testing.bare_peers import Sender, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import unix
from harmonicio.transport.arena import Arena
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import PLACE, Flag

SIZE_BYTES = 2**20


class ArenaConnector(Sender):
    """A source's end over a UNIX socket, which hands over any descriptor and says anything of it."""

    def __init__(self, bench: Bench, path: Path, descriptor: int, arena: int, *, ticket: str = "") -> None:
        channel = unix.dial(str(path))
        super().__init__(Link(channel, Role.CONNECTOR))
        ticket = ticket or lease_ticket(bench.configuration)
        hello = Hello(Role.CONNECTOR, stream="cells", ticket=ticket, source="source", arena=arena)
        try:
            self.welcome = self.link.greet(
                hello, send_first=lambda first: channel.send_with_descriptor(first, descriptor)
            )
        except BaseException:
            self.link.close()
            raise
        self.link.connection.use_arena(self.welcome.arena)

    def wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            if (event := self.link.next_event()) is not None:
                self.take(event)
            else:
                self.link.read()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(SIZE_BYTES)
    yield made
    made.close()


def descriptors_of(descriptor: int) -> int:
    """Return how many descriptors of the same file this process, which is the engine's too, has."""
    inode, found = os.fstat(descriptor).st_ino, 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # The listing's own has gone.
            found += os.stat(f"/proc/self/fd/{each}").st_ino == inode
    return found


def test_a_payload_is_read_where_its_source_wrote_it(start: Start, tmp_path: Path, arena: Arena) -> None:
    bench = start(ECHO)
    assert bench.controller.path.with_name("data.sock").stat().st_mode & 0o777 == 0o600
    wait_until(lambda: bench.controller.last and bench.controller.last.socket == "data.sock")
    connector = ArenaConnector(bench, tmp_path / "data.sock", arena.descriptor, SIZE_BYTES)
    assert connector.welcome.arena == SIZE_BYTES
    arena.write(8192, b"pixels")
    connector.wait(lambda: connector.credit.can_send(6))
    connector.link.send(connector.prefix(6, flags=Flag.ARENA) + PLACE.pack(8192))
    connector.wait(lambda: connector.outcomes)
    result = connector.outcomes[0].result
    assert isinstance(result, dict)
    assert result["digest"] == hashlib.sha256(b"pixels").hexdigest()
    connector.link.close()


def _unsealed() -> int:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE_BYTES)
    return descriptor


@pytest.mark.parametrize(("make", "said"), [(_unsealed, SIZE_BYTES), (lambda: os.dup(0), SIZE_BYTES), (_unsealed, 0)])
def test_a_descriptor_that_is_no_arena_is_closed_and_bytes_are_taken_as_ever(
    start: Start, tmp_path: Path, make: Callable[[], int], said: int
) -> None:
    bench = start(ECHO)
    descriptor = make()
    before = descriptors_of(descriptor)
    connector = ArenaConnector(bench, tmp_path / "data.sock", descriptor, said)
    assert connector.welcome.arena == 0
    assert descriptors_of(descriptor) == before
    connector.wait(lambda: connector.credit.can_send(6))
    connector.link.send(connector.prefix(6), b"pixels")
    connector.wait(lambda: connector.outcomes)
    connector.link.close()
    os.close(descriptor)


def test_an_arena_that_is_smaller_than_its_source_says_is_not_used(start: Start, tmp_path: Path, arena: Arena) -> None:
    bench = start()
    connector = ArenaConnector(bench, tmp_path / "data.sock", arena.descriptor, 2 * SIZE_BYTES)
    assert connector.welcome.arena == 0
    connector.link.close()


def test_an_arena_far_larger_than_what_the_engine_may_hold_is_not_used(start: Start, tmp_path: Path) -> None:
    bench = start(budget_bytes=SIZE_BYTES)
    for size_bytes, used in ((ARENA_BUDGETS * SIZE_BYTES, True), (ARENA_BUDGETS * SIZE_BYTES + 4096, False)):
        arena = Arena(size_bytes)
        before = descriptors_of(arena.descriptor)
        connector = ArenaConnector(bench, tmp_path / "data.sock", arena.descriptor, size_bytes)
        assert connector.welcome.arena == (size_bytes if used else 0)
        connector.link.close()
        wait_until(lambda: descriptors_of(arena.descriptor) == before)  # noqa: B023  asked at once
        arena.close()


def test_a_place_outside_the_arena_ends_the_connection_with_the_reason(
    start: Start, tmp_path: Path, arena: Arena
) -> None:
    bench = start()
    connector = ArenaConnector(bench, tmp_path / "data.sock", arena.descriptor, SIZE_BYTES)
    connector.link.send(message_prefix("0" * 32, 4097, flags=Flag.ARENA) + PLACE.pack(SIZE_BYTES - 4096))
    with pytest.raises(ConnectionEnded):
        connector.wait(lambda: False)
    assert connector.goodbye is not None
    assert connector.goodbye.code == "protocol"
    assert "4097 bytes at 1044480 of shared memory that has 1048576" in connector.goodbye.text
    connector.link.close()


def test_a_place_is_not_understood_where_no_arena_is_used(start: Start, tmp_path: Path) -> None:
    bench = start()
    connector = ArenaConnector(bench, tmp_path / "data.sock", 0, 0)
    connector.link.send(message_prefix("0" * 32, 10, flags=Flag.ARENA) + PLACE.pack(0))
    with pytest.raises(ConnectionEnded):
        connector.wait(lambda: False)
    assert connector.goodbye is not None
    assert connector.goodbye.code == "protocol"
    connector.link.close()


def test_the_ticket_is_asked_for_as_over_tcp_and_no_descriptor_stays(
    start: Start, tmp_path: Path, arena: Arena
) -> None:
    bench = start()
    before = descriptors_of(arena.descriptor)
    for _ in range(3):
        with pytest.raises(NotAllowed):
            ArenaConnector(bench, tmp_path / "data.sock", arena.descriptor, SIZE_BYTES, ticket="forged")
    wait_until(lambda: descriptors_of(arena.descriptor) == before)


def test_descriptors_of_who_never_greets_are_closed_with_the_connection(
    start: Start, tmp_path: Path, arena: Arena
) -> None:
    start()
    before = descriptors_of(arena.descriptor)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "data.sock"))
        for byte in b"HI\x01\x01":
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [arena.descriptor] * 50))
            peer.sendmsg([bytes([byte])], [rights])
        wait_until(lambda: descriptors_of(arena.descriptor) == before + 1)
    wait_until(lambda: descriptors_of(arena.descriptor) == before)


def test_the_socket_goes_with_the_engine(start: Start, tmp_path: Path) -> None:
    bench = start()
    assert stat.S_ISSOCK((tmp_path / "data.sock").stat().st_mode)
    bench.daemon.close()
    assert not (tmp_path / "data.sock").exists()
