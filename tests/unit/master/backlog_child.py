"""A process with a backlog store that a test kills, or takes the disk away from.

backlog_child.py kill FOLDER     puts and finishes for ever; one line for everything that the store says is safe
backlog_child.py full FOLDER     puts until no file may grow any more, then goes on when files may grow again
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.master.backlog.base import Callback, StoreLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Entry
from harmonicio.master.backlog.sqlite import SqliteStore

T = TypeVar("T")

FILE_LIMIT_BYTES = 400_000
#: Many small ones, some in files, one that arrives through a mapping.
SIZES_BYTES = (10, 1_000, 60_000, 5, 100_000, 20, 300_000, 30, 40, 150_000)


def payload_of(sequence: int) -> bytes:
    """Return what message ``sequence`` carries."""
    return bytes([sequence % 251]) * (SIZES_BYTES[sequence % len(SIZES_BYTES)] + sequence)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def put(store: SqliteStore, sequence: int, payload: bytes, on_stored: Callback, *, to_disk: bool = False) -> Entry:
    entry = Entry("plates", f"m{sequence}", sequence, len(payload), digest=digest_of(payload))
    pending = store.new_payload(sequence, len(payload), to_disk=to_disk)
    pending.buffer[:] = payload
    store.put(entry, pending, on_stored)
    return entry


def run_until_killed(store: SqliteStore) -> None:
    """Have up to 64 puts under way; every third message is finished as soon as it is stored."""
    room = threading.Semaphore(64)
    entries: dict[int, Entry] = {}

    def stored(sequence: int, error: StorageError | None) -> None:
        assert error is None
        say(f"stored {sequence}")
        room.release()
        if sequence % 3 == 0:
            store.finish([entries.pop(sequence)], Outcome(OutcomeKind.DONE, result=sequence), partial(done, sequence))

    def done(sequence: int, error: StorageError | None) -> None:
        assert error is None
        say(f"done {sequence}")

    sequence = 0
    while True:
        sequence += 1
        room.acquire()
        payload = payload_of(sequence)
        entries[sequence] = Entry("plates", f"m{sequence}", sequence, len(payload), digest=digest_of(payload))
        pending = store.new_payload(sequence, len(payload), to_disk=sequence % 10 == 6)
        pending.buffer[:] = payload
        store.put(entries[sequence], pending, partial(stored, sequence))


def run_on_a_full_disk(store: SqliteStore) -> None:
    """Say what was stored and what failed while files may not grow, and afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, hard))
    last = None
    for sequence in range(1, 60):
        last = put_and_say(store, sequence, payload_of(sequence)) or last
    put_and_say(store, 60, bytes(FILE_LIMIT_BYTES + 1))
    try:
        store.new_payload(61, FILE_LIMIT_BYTES + 1, to_disk=True)
    except StorageError:
        say("no room 61")
    assert last is not None
    say(f"unfinished {last.sequence}" if finish(store, last) is not None else f"done {last.sequence}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for sequence in range(62, 80):
        put_and_say(store, sequence, payload_of(sequence))
    store.close()


def run_until_drained(store: SqliteStore) -> None:
    """Put until ten in a row have failed, finish what was stored, and put once more."""
    stored: list[Entry] = []
    sequence = failed = 0
    while failed < 10:
        sequence += 1
        entry = put_and_say(store, sequence, payload_of(sequence))
        failed = 0 if entry is not None else failed + 1
        stored += [] if entry is None else [entry]
    for entry in stored:
        say(f"{'done' if finish(store, entry) is None else 'unfinished'} {entry.sequence}")
    put_and_say(store, sequence + 1, payload_of(sequence + 1))
    store.close()


def put_and_say(store: SqliteStore, sequence: int, payload: bytes) -> Entry | None:
    """Put a message and wait for the answer; return its entry when it was stored."""
    error, entry = wait_for(lambda told: put(store, sequence, payload, told))
    say(f"{'stored' if error is None else 'failed'} {sequence}")
    return entry if error is None else None


def finish(store: SqliteStore, entry: Entry) -> StorageError | None:
    return wait_for(lambda told: store.finish([entry], Outcome(OutcomeKind.DONE), told))[0]


def wait_for(ask: Callable[[Callback], T]) -> tuple[StorageError | None, T]:
    errors: list[StorageError | None] = []
    event = threading.Event()

    def told(error: StorageError | None) -> None:
        errors.append(error)
        event.set()

    returned = ask(told)
    event.wait()
    return errors[0], returned


RUNS = {"kill": run_until_killed, "full": run_on_a_full_disk, "drain": run_until_drained}

if __name__ == "__main__":
    opened = SqliteStore(Path(sys.argv[2]), StoreLimits(ballast_bytes=FILE_LIMIT_BYTES // 2, ballast_rest_s=0.0))
    opened.recover()
    say("open")
    RUNS[sys.argv[1]](opened)
