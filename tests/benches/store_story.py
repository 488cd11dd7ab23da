"""One life of a backlog store with everything that it ever does, and what must be left of it wherever it ends.

:func:`live` goes through the story and notes each thing that it asks and each answer it gets, in a file that outlives
the process. :func:`check` opens what is left and holds it against these notes alone:

- A message is in one state, between the last that was answered and the last that was asked for.
- What is there has the bytes that were put, in the order of arrival; what has a reason has the right one.
- There is no file without a message. The second start finds nothing to repair, and the store can be used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.base import BacklogStore, PendingPayload, StoreLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import FINISHED_KEPT_S, Death, Entry, Shed
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.backlog_store_suite import Told
from harmonicio.testing.clock import ManualClock

NOWHERE, WAITING, DEAD, FINISHED = "nowhere", "waiting", "dead", "finished"
DEATH = Death(Failure("ValueError", "no cell in sight", "Traceback …"), 1.5, "e1")
PLATES, WELLS = "plates", "wells"
SMALL, EDGE, BEYOND, LARGE, LARGER = 1_000, 64 * 1024, 64 * 1024 + 1, 100_000, 1_100_000
#: Some payloads stay in memory, and are written past the kernel's; others are written and read as usual.
LIMITS = StoreLimits(hot_cache_bytes=150_000, ballast_bytes=600_000, ballast_rest_s=0.0)
#: How often something is asked until it is answered well; a test breaks things less often than that.
TRIES = 6


def payload_of(name: str, size_bytes: int) -> bytes:
    """Return what a message carries; every one differs."""
    return (name.encode() * (size_bytes // len(name) + 1))[:size_bytes]


@dataclass
class Account:
    """What was asked and answered of one message."""

    size_bytes: int
    asked: list[str] = field(default_factory=lambda: [NOWHERE])
    answered: int = 0
    is_damaged: bool = False

    def allowed(self) -> list[str]:
        """Return where the message may be."""
        return [*self.asked[self.answered :], *([DEAD] if self.is_damaged and self.asked[-1] == WAITING else [])]


class Notes:
    """What was asked and answered, in a file."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def close(self) -> None:
        os.close(self._fd)

    @staticmethod
    def read(path: Path) -> dict[str, Account]:
        """Return the account of each message."""
        accounts: dict[str, Account] = {}
        for line in path.read_text().splitlines():
            what, name, *words = line.split()
            if what == "new":
                accounts[name] = Account(int(words[0]))
            elif what == "asked":
                accounts[name].asked.append(words[0])
            elif what == "answered":
                accounts[name].answered = len(accounts[name].asked) - 1
            elif what == "refused":
                accounts[name].asked.append(NOWHERE)
            elif what == "damaged":
                accounts[name].is_damaged = True
        return accounts


class Teller:
    """Asks a store for things and notes what it says. What is refused is asked again, as sources and clerks do."""

    def __init__(self, folder: Path, notes: Notes) -> None:
        self._folder = folder
        self._notes = notes
        self._sequence = 0
        self._entries: dict[str, Entry] = {}
        self.clock = ManualClock()
        self.store: BacklogStore = SqliteStore(folder, LIMITS, self.clock)
        self.refusals: list[str] = []

    def open(self) -> None:
        """Open the store, in several tries."""
        for left in reversed(range(TRIES)):
            self.store = SqliteStore(self._folder, LIMITS, self.clock)
            try:
                found = self.store.recover()
            except StorageError as error:
                self.refusals.append(str(error))
                if not left:
                    raise
            else:
                self._entries = {entry.message_id: entry for entry in (*found.entries, *found.dead)}
                return

    def put(self, *names: str, stream: str = PLATES, to_disk: bool = False, is_dead: bool = False) -> None:
        """Put messages at once; a name is ``<letters><size>``, such as ``a100000``."""
        waiting = set(names)
        for name in names:
            self._notes.note("new", name, size_of(name))
        for _ in range(TRIES):
            answers = {name: self._put(name, stream, to_disk, is_dead) for name in sorted(waiting)}
            for name, told in answers.items():
                if self._note_answer(name, told):
                    waiting.discard(name)
            if not waiting:
                return
        raise AssertionError(f"{waiting} were refused {TRIES} times: {self.refusals}")

    def _put(self, name: str, stream: str, to_disk: bool, is_dead: bool) -> Told:
        self._sequence += 1
        payload, told = payload_of(name, size_of(name)), Told()
        self._notes.note("asked", name, DEAD if is_dead else WAITING)
        try:
            pending = self.store.new_payload(self._sequence, len(payload), to_disk=to_disk)
        except StorageError as error:
            told(error)
            return told
        pending.buffer[:] = payload
        entry = Entry(stream, name, self._sequence, len(payload), digest=digest_of(payload), put_at=self.clock.wall())
        self._entries[name] = entry
        self.store.put(entry, pending, told, DEATH if is_dead else None)
        return told

    def _note_answer(self, name: str, told: Told) -> bool:
        error = told.wait()
        assert len(told.errors) == 1
        if error is None:
            self._notes.note("answered", name)
            return True
        self.refusals.append(str(error))
        self._notes.note("refused", name)
        return False

    def finish(self, *names: str) -> None:
        self._settle(
            FINISHED, names, lambda entry, told: self.store.finish([entry], outcome_of(entry.message_id), told)
        )

    def bury(self, *names: str) -> None:
        self._settle(DEAD, names, lambda entry, told: self.store.bury(entry, DEATH, told))

    def _settle(self, state: str, names: Iterable[str], ask: Callable[[Entry, Told], None]) -> None:
        for name in names:
            self._notes.note("asked", name, state)
            for _ in range(TRIES):
                told = Told()
                ask(self._entries[name], told)
                if (error := told.wait()) is None:
                    self._notes.note("answered", name)
                    break
                self.refusals.append(str(error))
            else:
                raise AssertionError(f"{name} could not be settled: {self.refusals}")

    def shed(self, name: str) -> None:
        def shed(entry: Entry, told: Told) -> None:
            record = Shed(entry.stream, entry.message_id, 0, entry.size_bytes, 1.5, "no room")
            self.store.shed(entry, record, outcome_of(name), told)

        self._settle(FINISHED, [name], shed)

    def revive(self, *names: str) -> None:
        self._change(WAITING, names, self.store.revive)

    def purge(self, *names: str) -> None:
        self._change(NOWHERE, names, self.store.purge)

    def _change(self, state: str, names: Iterable[str], ask: Callable[[list[Entry], Told], None]) -> None:
        for name in names:
            self._notes.note("asked", name, state)
        for _ in range(TRIES):
            told = Told()
            ask([self._entries[name] for name in names], told)
            if (error := told.wait()) is None:
                for name in names:
                    self._notes.note("answered", name)
                return
            self.refusals.append(str(error))
        raise AssertionError(f"{names} could not be changed: {self.refusals}")

    def revise(self, name: str) -> None:
        entry, told = self._entries[name], Told()
        entry.priority += 1
        self.store.revise([entry], told)
        told.wait()

    def update(self, name: str) -> None:
        self._entries[name].attempts += 1
        self.store.update(self._entries[name])

    def forget(self, name: str) -> None:
        self._notes.note("asked", name, NOWHERE)
        told = Told()
        self.store.forget(self._entries[name], told)
        if told.wait() is None:
            self._notes.note("answered", name)

    def drop_stream(self, stream: str) -> None:
        names = [name for name, entry in self._entries.items() if entry.stream == stream]
        for name in names:
            self._notes.note("asked", name, NOWHERE)
        self._sequence += 1
        told = Told()
        self.store.drop_stream(stream, self._sequence, told)
        if told.wait() is None:
            for name in names:
                self._notes.note("answered", name)

    def discard(self) -> None:
        """Give up a payload that was arriving in a file."""
        self._sequence += 1
        pending: PendingPayload | None = None
        for _ in range(TRIES):
            try:
                pending = self.store.new_payload(self._sequence, LARGE, to_disk=True)
                break
            except StorageError as error:
                self.refusals.append(str(error))
        assert pending is not None
        pending.discard()

    def read(self, *names: str) -> None:
        """Read payloads; what cannot be read now may be readable later."""
        for name in names:
            for _ in range(TRIES):
                try:
                    with self.store.read(self._entries[name]) as payload:
                        assert bytes(payload.view) == payload_of(name, size_of(name))
                    break
                except StorageError as error:
                    self.refusals.append(str(error))

    def damage(self, name: str) -> None:
        """Cut a payload file, and leave a file of nobody beside it. The store is closed."""
        self._notes.note("damaged", name)
        path = file_of(self._folder, self._entries[name].sequence)
        with path.open("r+b") as file:
            file.truncate(10)
        path.with_name("255.bin").write_bytes(b"nobody's")


def live(folder: Path, notes: Notes) -> Teller:
    """Go through the story."""
    teller = Teller(folder, notes)
    teller.open()
    teller.put(f"a{SMALL}")
    teller.put(f"b{LARGE}")
    teller.put(f"c{LARGER}", to_disk=True)
    teller.put("d0", f"e{EDGE}", f"f{BEYOND}", f"g{LARGE}", "h1", f"i{LARGE}")
    teller.put(f"j{LARGE}", f"k{LARGE}", to_disk=True)
    teller.update(f"a{SMALL}")
    teller.read(f"a{SMALL}", f"b{LARGE}", f"c{LARGER}")
    teller.bury(f"b{LARGE}", f"e{EDGE}")
    teller.put(f"l{LARGE}", "m7", is_dead=True)
    teller.finish(f"c{LARGER}", f"a{SMALL}")
    teller.forget(f"f{BEYOND}")
    teller.forget("d0")
    teller.discard()
    teller.put("w7", f"x{LARGE}", stream=WELLS)
    teller.drop_stream(WELLS)
    teller.clock.advance(FINISHED_KEPT_S / 2)
    teller.store.prune(teller.clock.wall())
    teller.finish("h1")
    teller.revise(f"k{LARGE}")
    teller.shed(f"k{LARGE}")
    teller.revive(f"b{LARGE}", "m7")
    teller.purge(f"l{LARGE}", f"e{EDGE}")
    teller.store.close()
    teller.damage(f"g{LARGE}")
    teller.open()
    teller.put(f"n{LARGE}", f"o{SMALL}")
    teller.finish(f"i{LARGE}")
    teller.store.close()
    return teller


def check(folder: Path, notes: Path) -> None:
    """Hold what is left against what was asked and answered."""
    accounts = Notes.read(notes)
    store = SqliteStore(folder, LIMITS)
    found = store.recover()
    try:
        for name, account in accounts.items():
            places = [WAITING for entry in found.entries if entry.message_id == name]
            places += [DEAD for entry in found.dead if entry.message_id == name]
            places += [FINISHED for each in found.finished if each.message_id == name]
            assert len(places) <= 1, f"{name} is in more than one place: {places}"
            place = places[0] if places else NOWHERE
            assert place in account.allowed(), f"{name} is {place}: {account}"
        for entries in (found.entries, found.dead):
            assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
        for entry in (*found.entries, *found.dead):
            _check_payload(store, entry, is_damaged=accounts[entry.message_id].is_damaged)
        for entry in found.dead:
            death = store.death(entry)
            assert death == DEATH or (death is not None and accounts[entry.message_id].is_damaged)
        for each in found.finished:
            kept = store.outcome(each.stream, each.message_id)
            assert kept is None or kept.outcome == outcome_of(each.message_id)
        assert not (folder / "quarantine").exists(), "nothing was damaged"
        kept_files = {entry.sequence for entry in (*found.entries, *found.dead) if entry.size_bytes > EDGE}
        assert {int(path.stem) for path in folder.glob("payloads/*/*")} == kept_files
    finally:
        store.close()
    _check_use(folder, found.entries)


def _check_payload(store: SqliteStore, entry: Entry, *, is_damaged: bool) -> None:
    try:
        with store.read(entry) as payload:
            assert bytes(payload.view) == payload_of(entry.message_id, entry.size_bytes)
    except StorageError:
        assert is_damaged, f"{entry} cannot be read"


def _check_use(folder: Path, before: tuple[Entry, ...]) -> None:
    """The store takes messages and lets them go; nothing is repaired twice."""
    store = SqliteStore(folder, LIMITS)
    again = store.recover()
    assert [entry.message_id for entry in again.entries] == [entry.message_id for entry in before]
    assert again.repairs == ()
    last = max((entry.sequence for entry in (*again.entries, *again.dead)), default=0)
    entry = Entry(PLATES, "last", last + 1, LARGE, digest=digest_of(payload_of("last", LARGE)))
    pending, told, done = store.new_payload(last + 1, LARGE, to_disk=False), Told(), Told()
    pending.buffer[:] = payload_of("last", LARGE)
    store.put(entry, pending, told)
    assert told.wait() is None
    store.finish([entry], outcome_of("last"), done)
    assert done.wait() is None
    store.close()


def size_of(name: str) -> int:
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def outcome_of(name: str) -> Outcome:
    return Outcome(OutcomeKind.DONE, result=f"of {name}")


def file_of(folder: Path, sequence: int) -> Path:
    (path,) = folder.glob(f"payloads/*/{sequence}.bin")
    return path
