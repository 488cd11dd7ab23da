"""Little msgpack that would take much memory or time of who reads it.

A master and an engine are processes of their own, and their memory is measured from outside.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from benches.data_port import last_words
from benches.engine_process import MIB, Running, engine_processes, our_command
from benches.master import PLATES, ask
from benches.memory import growth_bytes
from benches.roles import Roles, free_ports
from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.lease import Address
from harmonicio.core.message import OutcomeKind
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import FIXED, MAGIC, NO_ID, VERSION, FrameType

pytestmark = pytest.mark.row("S14")

HANDLER = """
from harmonicio.engine import handler

@handler
def look(message): return len(message.metadata)
"""
PROMPT_S = 2.0
#: Each is sent so often that what is not given back would be seen.
REPEATS = 10
SMALL_BYTES = 4 * MIB
#: A section of 256 KiB, full of empty lists, is read.
LARGEST_BYTES = 48 * MIB

BOMBS = {
    "2^32 items": b"\xdd\xff\xff\xff\xff",
    "2^32 names": b"\xdf\xff\xff\xff\xff",
    "2^32 letters": b"\xdb\xff\xff\xff\xff",
    "2^32 bytes": b"\xc6\xff\xff\xff\xff",
    "long lists in long lists": b"\xdc\xff\xff" * 900,
    "longest lists in longest lists": b"\xdd\x00\x00\xff\xff" * 900,
    "long maps in long maps": b"\xde\xff\xff\xa1a" * 900,
    "deep": b"\x91" * 100_000 + b"\xc0",
    "nils": b"\xdc\xff\xff" + b"\xc0" * 65_535,
    "empty lists": b"\xdd\x00\x03\xf0\x00" + b"\x90" * 0x3F000,
    "the same key twice": b"\x82\xa4role\xa6master\xa4role\xa6master",
    "the same key 10,000 times": b"\xde\x27\x10" + b"\xa1a\xc0" * 10_000,
    "huge numbers": b"\x81\xa8versions\xdc\x01\x00" + b"\xcf" * 9 * 256,
    "extensions": b"\x81\xa4role\xc9\xff\xff\xff\xff\x05",
    "timestamps": b"\x81\xa4role\xd6\xff\x00\x00\x00\x00",
}


def frame(kind: FrameType, section: bytes, announced: int = 0) -> bytes:
    return FIXED.pack(MAGIC, VERSION, kind, 0, 0, 0, announced or len(section), 0, 0, 0, NO_ID) + section


class Parts:
    """A master and an engine."""

    def __init__(self, roles: Roles, master_pid: int, engine: Running) -> None:
        self.roles = roles
        self.master_pid = master_pid
        self.engine = engine
        with roles.client() as admin:
            admin.declare_stream(PLATES)
            grant = ask(admin, "s1").backlog
        self._backlog_address, self._ticket = grant.address, grant.ticket

    def pid(self, part: str) -> int:
        return self.master_pid if part == "master" else self.engine.process.pid

    def address(self, part: str) -> Address:
        return self._backlog_address if part == "master" else self.engine.address

    def connector(self, part: str) -> BareConnector:
        if part == "engine":
            return self.engine.connector()
        return BareConnector(self._backlog_address, self._ticket, PLATES.name, "s1")

    def is_served(self, part: str) -> bool:
        with self.connector(part) as connector:
            good = (OutcomeKind.DONE, OutcomeKind.STORED)
            return connector.outcome(connector.send(b"abc", metadata={"a": [1]})).kind in good


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("parts")
    handler = folder / "mine.py"
    handler.write_text(HANDLER)
    roles = Roles(folder / "home", *free_ports())
    with engine_processes(folder, our_command(handler)) as start, roles.running("master") as master:
        wait_until(roles.is_up, 20)
        yield Parts(roles, master.pid, start())


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("part", ["engine", "master"])
def test_a_bomb_in_hello_is_refused_at_once_and_takes_no_memory(parts: Parts, part: str, bomb: bytes) -> None:
    address, hello = parts.address(part), frame(FrameType.HELLO, bomb)

    def say() -> None:
        for _ in range(REPEATS):
            with socket.create_connection((address.host, address.port), timeout=10) as sock:
                with suppress(ConnectionError):
                    sock.sendall(hello)
                assert b"protocol" in last_words(sock)

    began = time.monotonic()
    assert growth_bytes(parts.pid(part), say) < SMALL_BYTES
    assert time.monotonic() - began < PROMPT_S * REPEATS
    assert parts.is_served(part)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("part", ["engine", "master"])
def test_a_bomb_beside_a_payload_is_refused_in_bounded_memory(parts: Parts, part: str, bomb: bytes) -> None:
    sections = [
        bomb,
        b"\x81\xa8metadata" + bomb,
        b"\x81\xa8metadata\x81\xa1a" + bomb,
        b"\x82\xa2id\xa1a\xa8metadata" + bomb,
    ]

    def send() -> None:
        for section in sections:
            with parts.connector(part) as connector, suppress(ConnectionEnded):
                connector.credit.message_sent(0)
                connector.link.send(frame(FrameType.MESSAGE, section))
                connector.wait(lambda: bool(connector.outcomes), timeout_s=10)

    began = time.monotonic()
    assert growth_bytes(parts.pid(part), send) < LARGEST_BYTES
    assert time.monotonic() - began < PROMPT_S * len(sections)
    assert parts.is_served(part)


@pytest.mark.parametrize("part", ["engine", "master"])
def test_fifty_million_nils_are_not_read(parts: Parts, part: str) -> None:
    nils, sent = bytes([0xC0]) * MIB, 0

    def send() -> None:
        nonlocal sent
        with parts.connector(part) as connector, suppress(ConnectionEnded):
            connector.link.send(frame(FrameType.MESSAGE, b"\xdd\x02\xfa\xf0\x80", announced=50_000_005))
            while sent < 50 * MIB:
                connector.link.send(nils)
                sent += len(nils)
            connector.wait(lambda: bool(connector.outcomes), timeout_s=10)

    assert growth_bytes(parts.pid(part), send) < SMALL_BYTES
    assert sent < 25 * MIB, "it is cut off, but for what is on its way"
    assert parts.is_served(part)
