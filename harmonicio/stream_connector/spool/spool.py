"""Keeps messages on disk until they are safe; finds those of a source that was killed.

      keep ──► [room reserved] ──► written at the end of a segment ──► (synced) ──► sent ──► settle ──► marked as gone
                                                                                                 └─► segment removed
      open ──► segments that were left are scanned ──► what is kept and whole is sent first

What is kept survives the end of its process at any moment. With ``is_synced`` it survives that of the machine, too:
:meth:`Spool.keep` then returns after a sync that all threads which wait for one share.

Locks: ``_appending`` while a segment grows, ``_sweeping`` while records and segments go, ``_deciding`` for the book and
for moments only, ``_syncing`` around a sync. They are taken in this order, and never the connector's inside.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from harmonicio.control.locked_folder import LockedFolder
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.stream_connector.sources import PiecewisePayload
from harmonicio.stream_connector.spool.book import Book, Drop, Instruction, Place, PutAside
from harmonicio.stream_connector.spool.disk import ASIDE, SegmentFile, SpoolDisk
from harmonicio.stream_connector.spool.payloads import NamedFile, SegmentPayload
from harmonicio.stream_connector.spool.records import Damage, Draft, Found, Record, scan

_log = logging.getLogger(__name__)

#: So many of what cannot be sent are in one text; the log has all.
_NAMED = 3
_HINT = "Choose another folder with spool= or --spool."


@dataclass(slots=True, eq=False)
class Entry:
    """A message in the spool.

    Attributes:
        payload: What to send.
        is_recovered: Somebody before this connector put it in, who will not hear what becomes of it.
        is_settled: Whether its end has been counted.
    """

    record: Record
    segment: int
    offset: int
    payload: PiecewisePayload
    is_recovered: bool
    is_settled: bool = False


class Spool:
    """The spool of one stream; at most one at a time has its folder.

    Args:
        folder: The spool of this stream is in a folder of it that has the stream's name.
        max_bytes: What its segments may have together.
        is_synced: Whether :meth:`keep` waits until the message is on stable storage.
    """

    def __init__(self, folder: Path, stream: str, *, max_bytes: int, is_synced: bool = False) -> None:
        self.folder = folder / stream
        self._max_bytes = max_bytes
        self._is_synced = is_synced
        self._disk = SpoolDisk(self.folder)
        self._book = Book(max_bytes)
        self._files: dict[int, SegmentFile] = {}
        self._why: dict[int, list[str]] = {}
        self._unsendable: list[str] = []
        self._aside_bytes = 0
        self._instructions: deque[Instruction] = deque()  # what the book has said and is not carried out yet
        self._folder: LockedFolder | None = None
        self._is_open = False
        self._appending = threading.Lock()
        self._sweeping = threading.Lock()
        self._deciding = threading.Lock()
        self._commit = _GroupCommit(self._disk)

    def __repr__(self) -> str:
        return f"<Spool {self.folder} {'open' if self._is_open else 'closed'}: {self._book!r}>"

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def kept(self) -> int:
        """How many messages are in it."""
        return self._book.kept

    @property
    def unsendable(self) -> tuple[str, ...]:
        """What of it was found damaged or was refused for good since it was opened, so that it is put aside."""
        return tuple(self._unsendable)

    @property
    def trouble(self) -> str:
        """The same in one text, with what to do; empty when there is nothing."""
        if not self._unsendable:
            return ""
        named = "; ".join(self._unsendable[:_NAMED])
        count = len(self._unsendable)
        more = f"; and {count - _NAMED} more" if count > _NAMED else ""
        messages = (
            "1 message of the spool cannot be sent and is"
            if count == 1
            else f"{count} messages of the spool cannot be sent and are"
        )
        todo = "mend what they name and move the segments back, or delete them"
        return f"{messages} put aside: {named}{more}. See the texts in {self.aside_folder}: {todo}."

    @property
    def aside_folder(self) -> Path:
        """Where that is, each with a text beside it that says what to do."""
        return self.folder / ASIDE

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> list[Entry]:
        """Take the folder, and return the messages that are in it, the oldest first.

        Raises:
            Conflict: another connector has it.
            StorageError: it cannot be used.
        """
        self._folder = LockedFolder(self.folder, "connector", ASIDE, name="spool", hint=_HINT)
        _let_go_after_fork(self)
        try:
            entries = self._recover()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._broken("read", error) from None
            raise
        self._is_open = True
        return entries

    def close(self) -> int:
        """Let go of the folder; return how many messages stay in it. May be called more than once.

        Nobody reads payloads of it any more.
        """
        with self._appending, self._sweeping:
            self._is_open = False
            with self._deciding:
                self._instructions += self._book.rest()
            self._carry_out()
            for file in self._files.values():
                file.close()
            self._files.clear()
            self.let_go()
        return self._book.kept

    def let_go(self) -> None:
        """Let another have the folder."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    # ── putting in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, draft: Draft) -> bool:
        """Reserve room for this; return whether there is.

        Raises:
            StorageError: what was put aside fills the disk space of the spool, and only people can say what to do.
        """
        if self._aside_bytes >= self._max_bytes:
            self._measure_aside()  # Somebody may have made room.
            if self._aside_bytes >= self._max_bytes:
                raise StorageError(
                    f"What was put aside takes {self._aside_bytes} bytes, as much as the spool {self.folder} may have.",
                    hint=f"Look at the texts in {self.aside_folder}; move segments away, or delete what is not needed.",
                )
        with self._deciding:
            return self._book.reserve(draft.size_bytes)

    def keep(self, record: Record, draft: Draft) -> Entry:
        """Write a message whose room was reserved.

        Raises:
            StorageError: it cannot be kept, and is not.
            InvalidInput: the spool is closed.
        """
        with self._appending:
            if not self._is_open:
                raise InvalidInput("The connector is closed.", hint="Open a new one.")
            with self._deciding:
                place, instructions = self._book.place(draft.size_bytes)
                self._instructions += instructions
            try:
                file = self._written(place, draft)
            except BaseException as error:  # Ctrl-C, too: what is not kept must not be counted, nor leave a hole.
                with self._deciding:
                    self._instructions += self._book.unplace(place, draft.size_bytes)
                if isinstance(error, OSError):
                    raise self._broken("written", error) from None
                raise
            finally:
                if self._instructions:
                    with self._sweeping:
                        self._carry_out()
            turn = self._commit.wrote(file, is_new=place.is_new) if self._is_synced else 0
        payload = _payload(record, file, place.offset + draft.head_bytes)
        entry = Entry(record, place.segment, place.offset, payload, is_recovered=False)
        if self._is_synced:
            try:
                self._commit.wait(turn)
            except OSError as error:
                self.settle([(entry, "")])
                raise self._broken("synced", error) from None
        return entry

    def _written(self, place: Place, draft: Draft) -> SegmentFile:
        if place.is_new:
            self._files[place.segment] = self._disk.create(place.segment)
        file = self._files[place.segment]
        self._disk.write(file, place.offset, draft.buffers(place.offset))
        return file

    # ── taking out ───────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, settled: Iterable[tuple[Entry, str]]) -> None:
        """These are safe, and kept no longer; or, with a text that says why, they can never be sent.

        Of what can never be sent, that which somebody before left here is put aside: nobody else has it. May be called
        again for the same ones when it was interrupted.
        """
        with self._sweeping:
            for entry, trouble in settled:
                is_spoilt = bool(trouble) and entry.is_recovered
                with self._deciding:
                    if not entry.is_settled:
                        if is_spoilt:
                            self._note(
                                entry.segment, f"message {entry.record.message_id!r} could not be sent: {trouble}"
                            )
                        self._instructions += self._book.settled(entry.segment, is_spoilt=is_spoilt)
                        entry.is_settled = True
                    stays = Drop(entry.segment) not in self._instructions  # Others add to them meanwhile.
                if not is_spoilt and stays:
                    self._mark_gone(entry)
                self._carry_out()

    def _mark_gone(self, entry: Entry) -> None:
        file = self._files.get(entry.segment)
        try:
            if file is not None:  # Else the spool was closed before, and the message is sent again: a duplicate.
                self._disk.mark_gone(file, entry.offset)
        except OSError as error:
            _log.warning("%s", self._broken("written", error))

    def _carry_out(self) -> None:
        """Do what the book has said; what is interrupted is done the next time."""
        while self._instructions:
            each = self._instructions[0]
            self._files.pop(each.segment, None)
            try:
                if isinstance(each, Drop):
                    self._disk.remove(each.segment)
                else:
                    self._put_aside(each)
            except OSError as error:
                _log.warning("%s", self._broken("written", error))
            self._instructions.popleft()

    def _put_aside(self, instruction: PutAside) -> None:
        number = instruction.segment
        lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} put aside by the connector of {self.folder}"]
        lines += self._why.get(number, [])
        lines.append("To try again what is whole in it, move the segment back when no connector uses the folder.")
        self._disk.put_aside(number, "\n".join(lines) + "\n")
        self._why.pop(number, None)
        self._measure_aside()
        _log.warning("Something of the spool cannot be sent; see %s.", self.aside_folder / f"{number:010}.txt")

    def _measure_aside(self) -> None:
        try:
            self._aside_bytes = self._disk.aside_bytes()
        except OSError as error:
            _log.warning("%s", self._broken("read", error))

    def _note(self, number: int, text: str) -> None:
        self._why.setdefault(number, []).append(text)
        self._unsendable.append(text)

    # ── what was left ────────────────────────────────────────────────────────────────────────────────────────────────

    def _recover(self) -> list[Entry]:
        self._book = Book(self._max_bytes, self._disk.next_number())
        self._unsendable.clear()
        self._measure_aside()
        entries: list[Entry] = []
        numbers = self._disk.numbers()
        for number in numbers:
            file = self._disk.open(number)
            self._files[number] = file
            found = [entry for each in scan(file.read, file.size_bytes) if (entry := self._taken(number, file, each))]
            is_spoilt = bool(self._why.get(number))
            self._instructions += self._book.adopt(
                number, file.size_bytes, len(found), is_spoilt=is_spoilt, is_last=number == numbers[-1]
            )
            with self._sweeping:
                self._carry_out()
            entries += found
        return entries

    def _taken(self, number: int, file: SegmentFile, each: Found | Damage) -> Entry | None:
        if isinstance(each, Damage):
            self._note(number, f"at byte {each.offset} {each.what}")
            _log.error("The spool %s is damaged: at byte %d %s.", file.name, each.offset, each.what)
            return None
        record = each.record
        return Entry(record, number, each.offset, _payload(record, file, each.payload_offset), is_recovered=True)

    def _broken(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"The spool {self.folder} cannot be {what}: {error.strerror or error}.",
            hint="Make room or mend the disk, or choose another folder; what cannot be kept is not sent.",
        )


def _payload(record: Record, file: SegmentFile, offset: int) -> PiecewisePayload:
    if record.path:
        return NamedFile(record.path, record.size_bytes, record.changed_ns)
    return SegmentPayload(file, offset, record.size_bytes)


class _GroupCommit:
    """One sync for all who wait for one."""

    def __init__(self, disk: SpoolDisk) -> None:
        self._disk = disk
        self._syncing = threading.Lock()
        self._noting = threading.Lock()
        self._written = self._synced = 0
        self._unsynced: dict[SegmentFile, None] = {}
        self._is_folder_unsynced = True  # Somebody before may have left it so.
        self._failure: tuple[int, OSError] | None = None

    def wrote(self, file: SegmentFile, *, is_new: bool) -> int:
        """Something was written; return its turn."""
        with self._noting:
            self._written += 1
            self._unsynced[file] = None
            self._is_folder_unsynced |= is_new
            return self._written

    def wait(self, turn: int) -> None:
        """Return when what was written at this turn is on stable storage.

        Raises:
            OSError: it is not, and will not be: after a failure a second sync would say nothing.
        """
        with self._syncing:
            if self._failure is not None and turn <= self._failure[0]:
                raise self._failure[1]
            if turn <= self._synced:
                return
            with self._noting:
                reached, files, self._unsynced = self._written, self._unsynced, {}
                is_folder_unsynced, self._is_folder_unsynced = self._is_folder_unsynced, False
            try:
                for file in files:
                    self._disk.sync(file)
                if is_folder_unsynced:
                    self._disk.sync_folder()
            except OSError as error:
                self._failure = (reached, error)
                with self._noting:
                    self._is_folder_unsynced |= is_folder_unsynced
                raise
            self._synced = reached


_OPEN: WeakSet[Spool] = WeakSet()
_watching = threading.Lock()
_has_watch = False


def _let_go_after_fork(spool: Spool) -> None:
    """See to it that a forked child, which has no use for it, does not keep the folder from others."""
    global _has_watch
    with _watching:
        _OPEN.add(spool)
        if not _has_watch:
            _has_watch = True
            os.register_at_fork(after_in_child=_let_go_all)


def _let_go_all() -> None:
    for spool in list(_OPEN):
        spool.let_go()
