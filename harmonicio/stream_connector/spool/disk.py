"""The files of a spool: every call that changes something on the disk is in here.

<folder>/<stream>/connector.lock
                  0000000001.segment …
                  aside/0000000001.segment, 0000000001.txt     what could not be sent, and why
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harmonicio.control.locked_folder import OWNER_ONLY_FILE
from harmonicio.stream_connector.spool.records import GONE

ASIDE = "aside"
_SUFFIX = ".segment"


class SegmentFile:
    """An open segment; it is closed with its spool, or when nobody holds this any more: who reads may finish."""

    __slots__ = ("_descriptor", "name")

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<SegmentFile {self.name}>"

    def fileno(self) -> int:
        return self._descriptor

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self._descriptor, [buffer], offset)

    def close(self) -> None:
        """Close it; nobody reads any more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class SpoolDisk:
    """The folder of one spool, and what is done to it. What goes wrong is an OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<SpoolDisk {self.folder}>"

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def numbers(self) -> list[int]:
        """Return the segments that are there, the oldest first."""
        return sorted(_numbers_in(self.folder))

    def next_number(self) -> int:
        """Return a number that no segment has had, of those that are there or were put aside."""
        return 1 + max([0, *_numbers_in(self.folder), *_numbers_in(self.folder / ASIDE)])

    def aside_bytes(self) -> int:
        """Return what was put aside so far."""
        return sum(each.stat().st_size for each in (self.folder / ASIDE).iterdir())

    def open(self, number: int) -> SegmentFile:
        return self._opened(number, os.O_RDWR)

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, number: int) -> SegmentFile:
        return self._opened(number, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def write(self, file: SegmentFile, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write all of it, or leave the file as it was."""
        pending, at = [memoryview(each) for each in buffers if len(each)], offset
        try:
            while pending:
                count = os.pwritev(file.fileno(), pending, at)
                at += count
                while pending and count >= len(pending[0]):
                    count -= len(pending.pop(0))
                if count:
                    pending[0] = pending[0][count:]
        except BaseException:
            with suppress(OSError):  # What is half written is not taken for a message.
                os.ftruncate(file.fileno(), offset)
            raise

    def mark_gone(self, file: SegmentFile, offset: int) -> None:
        """Note in place that the record there is not kept any more."""
        os.pwrite(file.fileno(), GONE, offset)

    def sync(self, file: SegmentFile) -> None:
        """Return when what was written is on stable storage."""
        os.fdatasync(file.fileno())

    def sync_folder(self) -> None:
        """Do the same for the names of the segments."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def put_aside(self, number: int, text: str) -> None:
        """Move a segment away, with a text beside it that says why."""
        self._write_text(self.folder / ASIDE / f"{number:010}.txt", text)
        os.rename(self._path(number), self.folder / ASIDE / self._path(number).name)

    def _write_text(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")

    def _opened(self, number: int, flags: int) -> SegmentFile:
        path = self._path(number)
        return SegmentFile(str(path), os.open(path, flags | os.O_CLOEXEC, OWNER_ONLY_FILE))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:010}{_SUFFIX}"


def _numbers_in(folder: Path) -> list[int]:
    return [int(each.stem) for each in folder.glob(f"*{_SUFFIX}") if each.stem.isdecimal()]
