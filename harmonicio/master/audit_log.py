"""Who changed what, and when: a chain of records in files that only this user may read.

    <folder>/000000000001.jsonl    a record a line, each with its SHA-256 and that of the record before
    <folder>/000000020480.jsonl    named by its first record

Rules:

- A record is on stable storage before the request is answered. What cannot be written (a full disk) is told in the log,
  and the next record counts it: nothing is refused for that.
- Whoever changes, removes or inserts a record breaks the chain, and :meth:`AuditLog.view` says where. Who may write
  these files could make all digests anew; so the log of the master has each digest as well, wherever that goes.
- A last line without an end was cut off by a crash before its request was answered; it is removed.
- At most ``MAX_FILES`` files of ``MAX_FILE_BYTES``; the oldest goes first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonicio.control import json_codec
from harmonicio.control.audit_messages import AuditRecord, AuditView
from harmonicio.control.locked_folder import OWNER_ONLY_FILE, make_private
from harmonicio.core.clock import Clock
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.master.backlog.payload_files import sync_folder

_log = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 16
MAX_DAMAGE = 20
_LINE = re.compile(rb'(\{.*),"digest":"([0-9a-f]{64})"\}')


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody asked for; the fields are those of :class:`AuditRecord`."""

    who: str
    role: str
    came_from: str
    did: str
    names: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class AuditLog:
    """The audit log of one master. Safe to use from several threads.

    Args:
        folder: Its own; made where there is none.

    Raises:
        StorageError: what is there cannot be read.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._missing = 0
        self._number, self._digest = 0, ""
        make_private(folder)
        try:
            self._file = self._go_on()
        except OSError as error:
            raise StorageError(f"The audit log {folder} cannot be read: {error.strerror}.") from error

    def __repr__(self) -> str:
        return f"<AuditLog {self._folder}: {self._number} records>"

    def _go_on(self) -> Path:
        """Find the last record that can be read; return the file that the next one goes into."""
        files = self._files()
        if files:
            _remove_torn_line(files[-1])
        for file in reversed(files):
            for line in reversed(file.read_bytes().splitlines()):
                if (found := _read(line)) is not None:
                    self._number, self._digest = found[0].number, found[1]
                    return files[-1]
        return files[-1] if files else self._file_from(1)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _file_from(self, number: int) -> Path:
        return self._folder / f"{number:012}.jsonl"

    # ── written ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, deed: Deed, status: int) -> None:
        """Record what was asked for and how it was answered."""
        with self._lock:
            record = AuditRecord(
                number=self._number + 1,
                at=self._clock.wall(),
                who=deed.who,
                role=deed.role,
                came_from=deed.came_from,
                did=deed.did,
                names=deed.names,
                details=deed.details,
                status=status,
                missing=self._missing,
                previous=self._digest,
            )
            text = json_codec.dumps(record)
            digest = hashlib.sha256(text).hexdigest()
            try:
                self._append(text[:-1] + f',"digest":"{digest}"}}\n'.encode())
            except OSError as error:
                self._missing += 1
                _log.error("Not in the audit log, because %s: %s", error.strerror, text.decode())
                return
            self._number, self._digest, self._missing = record.number, digest, 0
        _log.info("Audit: %s %s", text.decode(), digest)

    def _append(self, line: bytes) -> None:
        """Write a line to stable storage, all of it or nothing."""
        if self._file.exists() and self._file.stat().st_size + len(line) > MAX_FILE_BYTES:
            self._file = self._file_from(self._number + 1)
            for oldest in self._files()[: 1 - MAX_FILES]:
                oldest.unlink()
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, line)
                os.fsync(descriptor)
                if not before:
                    sync_folder(self._folder)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    # ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def view(self, last: int) -> AuditView:
        """Return the last so many records, and what of all is not as it was written.

        Raises:
            StorageError: they cannot be read.
        """
        records: deque[AuditRecord] = deque(maxlen=last)
        damage: list[str] = []
        kept, number, digest = 0, None, ""
        with self._lock:
            for record, own_digest in self._all(damage):
                if number is not None and (record.number != number + 1 or record.previous != digest):
                    damage.append(f"Record {record.number} does not follow on record {number}.")
                elif number is None and record.number > 1 and len(self._files()) < MAX_FILES:
                    damage.append(f"What was before record {record.number} is not here.")
                kept, number, digest = kept + 1, record.number, own_digest
                records.append(record)
            if digest != self._digest:
                damage.append(
                    f"Record {self._number}, the last one that was written, is not the last one that is here."
                )
            return AuditView(tuple(records), kept, self._digest, tuple(damage[:MAX_DAMAGE]))

    def _all(self, damage: list[str]) -> Iterator[tuple[AuditRecord, str]]:
        try:
            for file in self._files():
                for place, line in enumerate(file.read_bytes().splitlines(), start=1):
                    if (found := _read(line)) is None:
                        damage.append(f"Line {place} of {file.name} is not what was written.")
                    else:
                        yield found
        except OSError as error:
            raise StorageError(f"The audit log {self._folder} cannot be read: {error.strerror}.") from error


def _read(line: bytes) -> tuple[AuditRecord, str] | None:
    """Return the record of a line, and its digest; None when the line is not what was written."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    text, digest = match[1] + b"}", match[2].decode()
    if hashlib.sha256(text).hexdigest() != digest:
        return None
    try:
        return json_codec.loads(AuditRecord, text), digest
    except InvalidInput:
        return None


def _remove_torn_line(file: Path) -> None:
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        _log.warning("The last line of %s has no end, and is removed: %r", file, content[end:][:500])
        os.truncate(file, end)


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
