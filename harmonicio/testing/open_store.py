"""A backlog store with shortcuts that wait for what they ask, and a callback that remembers what it was told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.base import BacklogStore
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Death, Entry, Shed

SEVERAL_SECONDS = 20.0

DONE = Outcome(OutcomeKind.DONE)
FAILURE = Failure("ValueError", "no cell in sight", "Traceback …", retryable=False)
DEATH = Death(FAILURE, 1_700_000_009.25, "cells-1a2b", "sha256:" + "0" * 64, 7)


class Told:
    """A callback that remembers what it was told, and by which thread."""

    def __init__(self) -> None:
        self.errors: list[StorageError | None] = []
        self._event = threading.Event()

    def __call__(self, error: StorageError | None) -> None:
        self.errors.append(error)
        self._event.set()

    def wait(self) -> StorageError | None:
        """Return what it was told, within several seconds."""
        assert self._event.wait(SEVERAL_SECONDS), "the store did not call back"
        return self.errors[0]


class OpenStore:
    """A store with shortcuts that wait for what they ask."""

    def __init__(self, store: BacklogStore) -> None:
        self.store = store
        self.recovery = store.recover()

    def put(
        self, sequence: int, payload: bytes, *, to_disk: bool = False, death: Death | None = None, **more: object
    ) -> Entry:
        """Put a message and wait until it is stored."""
        entry, told = self.put_later(sequence, payload, to_disk=to_disk, death=death, **more)
        assert told.wait() is None
        return entry

    def put_later(
        self, sequence: int, payload: bytes, *, to_disk: bool = False, death: Death | None = None, **more: object
    ) -> tuple[Entry, Told]:
        given: dict[str, object] = {"stream": "plates", "message_id": f"m{sequence}", "digest": digest_of(payload)}
        entry = Entry(sequence=sequence, size_bytes=len(payload), **(given | more))  # type: ignore[arg-type]
        pending = self.store.new_payload(sequence, len(payload), to_disk=to_disk)
        pending.buffer[:] = payload
        told = Told()
        self.store.put(entry, pending, told, death)
        return entry, told

    def read(self, entry: Entry) -> bytes:
        with self.store.read(entry) as payload:
            return bytes(payload.view)

    def finish(self, *entries: Entry, outcome: Outcome = DONE) -> None:
        self._wait(lambda told: self.store.finish(entries, outcome, told))

    def bury(self, entry: Entry, death: Death = DEATH) -> None:
        self._wait(lambda told: self.store.bury(entry, death, told))

    def revise(self, *entries: Entry) -> None:
        self._wait(lambda told: self.store.revise(entries, told))

    def revive(self, *entries: Entry) -> None:
        self._wait(lambda told: self.store.revive(entries, told))

    def purge(self, *entries: Entry) -> None:
        self._wait(lambda told: self.store.purge(entries, told))

    def shed(self, entry: Entry, record: Shed) -> None:
        outcome = Outcome(OutcomeKind.FAILED, failure=Failure("Shed", record.why, retryable=False))
        self._wait(lambda told: self.store.shed(entry, record, outcome, told))

    def forget(self, entry: Entry) -> None:
        self._wait(lambda told: self.store.forget(entry, told))

    def drop_stream(self, stream: str, before_sequence: int) -> None:
        self._wait(lambda told: self.store.drop_stream(stream, before_sequence, told))

    def _wait(self, ask: Callable[[Told], None]) -> None:
        told = Told()
        ask(told)
        assert told.wait() is None
