"""Connections that are dialled: what is made for them, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.lease import Address
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.arena_slots import ArenaSlots
from harmonicio.stream_connector.dialling import Dialling
from harmonicio.transport import tcp, unix
from harmonicio.wire.events import Hello, Role


@pytest.fixture
def slots() -> Iterator[ArenaSlots]:
    made = ArenaSlots(2**20, 2**30)
    yield made
    made.close()


def nobody() -> Address:
    """Return an address at which nobody listens."""
    with tcp.listen("127.0.0.1", 0) as listener:
        return Address(*listener.getsockname())


def dial(slots: ArenaSlots, path: Path) -> object:
    dialling = Dialling("test", ChecksumMode.AUTO, slots, lambda: None)
    dialling.begin("key", nobody(), Hello(Role.CONNECTOR, engine="e-1"), str(path))
    dialling.wait_for_one(10)
    outcome = dialling.take()["key"]
    dialling.close()
    return outcome


def test_shared_memory_is_made_only_for_an_engine_that_is_on_this_host(slots: ArenaSlots, tmp_path: Path) -> None:
    assert isinstance(dial(slots, tmp_path / "not_here.sock"), HarmonicIOError)
    assert slots._arena is None
    path = tmp_path / "here.sock"
    with unix.listen(path) as listener:
        listener.setblocking(True)
        engine = threading.Thread(target=lambda: listener.accept()[0].close())
        engine.start()
        assert isinstance(dial(slots, path), HarmonicIOError)
        engine.join()
    assert slots._arena is not None


def test_who_wants_no_shared_memory_does_not_dial_the_socket(tmp_path: Path) -> None:
    with unix.listen(tmp_path / "here.sock") as listener:
        assert isinstance(dial(ArenaSlots(0, 2**30), tmp_path / "here.sock"), HarmonicIOError)
        assert unix.accept(listener) is None
