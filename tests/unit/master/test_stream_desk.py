"""Streams at the master: a deletion of which only the first half can be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benches.backlog import PLATES, STORED, Desk
from harmonicio.core.errors import StorageError
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.directory import Directory
from harmonicio.master.leases import LeaseTable
from harmonicio.master.state import MasterState
from harmonicio.master.store import MasterStore
from harmonicio.master.stream_desk import StreamDesk


@contextmanager
def deciding() -> Iterator[float]:
    yield 0.0


def test_a_deletion_that_keeps_the_declaration_says_that_the_messages_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(MemoryStore())
    state = MasterState(directory=Directory(), leases=LeaseTable(id_prefix="t"))
    with closing(desk.backlog), closing(MasterStore(tmp_path / "master.sqlite")) as store:
        streams = StreamDesk(state, store, desk.backlog, deciding, lambda is_meant: None, lambda given: None)
        streams.declare(PLATES)
        desk.put("a")
        with monkeypatch.context() as broken:
            broken.setattr(store, "drop_stream", fail)
            with pytest.raises(
                StorageError, match=r"messages of stream 'plates' are deleted, its declaration is still"
            ) as caught:
                streams.delete("plates", is_forced=True)
        assert "Delete it again" in caught.value.hint
        assert (desk.state("a"), list(state.streams())) == (None, ["plates"])
        desk.put("b")
        assert desk.answers == [STORED, STORED], "the stream is there, and takes messages"
        streams.delete("plates", is_forced=True)
        assert (list(state.streams()), store.streams()) == ([], ())


def fail(stream: str) -> None:
    raise StorageError("The disk is full.")
