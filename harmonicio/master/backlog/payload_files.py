"""Large payloads as files: ``payloads/<2 hex>/<sequence>.bin``.

Rules:

- The row in the index is the truth. A file is complete and on stable storage before its row is written, and goes only
  after its row is gone; a file without a row is rubbish.
- Behind the payload a label says whose it is, for the case that the index is lost.
- 256 sequences in a row share a folder, so that one flush of the folder serves many files.
- What stays in memory of ours is written past the kernel's (:mod:`harmonicio.master.backlog.direct_write`).
- A file that arrives through a mapping is allocated first: a full disk is an error then, and not a SIGBUS later.
- A failed flush is final: what the kernel has dropped does not come back by flushing again.
- A payload is read into memory, and checked there. A larger one is read through once, to check it, before it is mapped:
  so an unreadable disk is an error, too.
"""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from harmonicio.core.errors import StorageError
from harmonicio.master.backlog.base import PayloadLease, PendingPayload, damaged
from harmonicio.master.backlog.digest import is_intact
from harmonicio.master.backlog.direct_write import write_past_cache
from harmonicio.master.backlog.entry import Entry
from harmonicio.master.backlog.payload_label import label_of, read_label
from harmonicio.master.backlog.payload_memory import PayloadMemory

_log = logging.getLogger(__name__)

_FOLDERS = 256
_CHUNK_BYTES = 1024**2
#: Larger payloads are not in memory as a whole when they are sent.
_MAPPED_FROM_BYTES = 16 * 1024**2


class FilePayload(PendingPayload):
    """Room in a file that is mapped for writing."""

    is_on_disk = True

    def __init__(self, path: Path, size_bytes: int, remove: Callable[[Path], None]) -> None:
        self._path: Path | None = path
        self._remove = remove
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, size_bytes)
            self._mapping: mmap.mmap | None = mmap.mmap(self._fd, size_bytes)
        except OSError:
            os.close(self._fd)
            remove(path)
            raise
        self.buffer = memoryview(self._mapping)

    def __repr__(self) -> str:
        return f"<FilePayload {self._path}>"

    def flush(self, entry: Entry) -> None:
        """Bring the payload and its label to stable storage, then give the mapping back; the file stays.

        Raises OSError, also when it was given back before.
        """
        try:
            _write_whole(self._fd, label_of(entry), entry.size_bytes)
            os.fsync(self._fd)  # On Linux this covers the pages that were written through the mapping.
        finally:
            self._give_back()

    def keep(self) -> None:
        """The file is the store's now: discarding has no effect any more."""
        self._path = None

    def discard(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            self._give_back()
            self._remove(path)

    def _give_back(self) -> None:
        mapping, self._mapping = self._mapping, None
        if mapping is None:
            return
        fd, self._fd = self._fd, -1  # The number may be that of another file from here on.
        os.close(fd)
        self.buffer = memoryview(b"")
        try:
            mapping.close()
        except BufferError:
            return  # A connection that is breaking still holds the buffer: the mapping ends with its last user.


class PayloadFiles:
    """The folder of payload files.

    Args:
        folder: Made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Files that could not be removed, to be tried again.
        self._left_over: set[Path] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PayloadFiles in {self.folder}>"

    @property
    def is_there(self) -> bool:
        """Whether the folder has been prepared before, and is not away. Raises OSError."""
        try:
            return bool(os.listdir(self.folder))
        except FileNotFoundError:
            return False

    def prepare(self) -> None:
        """Make the folders. Raises OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.folder.parent)
        for name in {f"{number:02x}" for number in range(_FOLDERS)}.difference(os.listdir(self.folder)):
            (self.folder / name).mkdir(mode=0o700)
        sync_folder(self.folder)

    def allocate(self, sequence: int, size_bytes: int) -> FilePayload:
        """Return room for a payload. Raises OSError."""
        return FilePayload(self._path(sequence), size_bytes, self._remove)

    def write(self, entry: Entry, payload: memoryview, *, is_read_soon: bool = True) -> None:
        """Write a whole payload and its label, and flush them; nothing is left when that fails.

        Args:
            is_read_soon: Without, the kernel need not keep it in memory, too.

        Raises:
            OSError: the disk does not take it.
        """
        path = self._path(entry.sequence)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = 0 if is_read_soon else write_past_cache(fd, payload)
            _write_whole(fd, payload[written:], written)
            _write_whole(fd, label_of(entry), len(payload))
            os.fsync(fd)
        except BaseException:
            self._remove(path)
            raise
        finally:
            os.close(fd)

    def sync_folders(self, sequences: Iterable[int]) -> None:
        """Flush the folders that hold these payloads. Raises OSError."""
        for folder in {self._path(sequence).parent for sequence in sequences}:
            sync_folder(folder)

    def read(self, entry: Entry, memory: PayloadMemory, most_bytes: int) -> PayloadLease:
        """Return a payload after checking it.

        Args:
            most_bytes: Of the memory that may be in use; beyond it the payload is mapped, in pages of the kernel.

        Raises:
            OSError: it is missing or cannot be read.
            MemoryError: there is none for it.
            StorageError: it is not what was stored.
        """
        fd = os.open(self._path(entry.sequence), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < entry.size_bytes:
                raise _damaged_payload(entry)
            if entry.size_bytes <= _MAPPED_FROM_BYTES and memory.used_bytes + entry.size_bytes <= most_bytes:
                return PayloadLease(_read_whole(fd, entry, memory.take(entry.size_bytes)))
            if not is_intact(_chunks(fd, entry.size_bytes), entry.digest):
                raise _damaged_payload(entry)
            mapping = mmap.mmap(fd, entry.size_bytes, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        view = memoryview(mapping)

        def close() -> None:
            try:
                view.release()
                mapping.close()
            except BufferError:
                return  # Somebody still holds a slice of it: the mapping ends with the last one.

        return PayloadLease(view, close)

    def fetch(self, entry: Entry) -> None:
        """Have the kernel begin to read a payload; whether that works shows when it is read."""
        with suppress(OSError):
            fd = os.open(self._path(entry.sequence), os.O_RDONLY | os.O_CLOEXEC)
            try:
                for at in range(0, entry.size_bytes, _CHUNK_BYTES):  # The kernel takes little of a longer range.
                    os.posix_fadvise(fd, at, min(_CHUNK_BYTES, entry.size_bytes - at), os.POSIX_FADV_WILLNEED)
            finally:
                os.close(fd)

    def label(self, sequence: int) -> Entry | None:
        """Return the entry that a payload file tells of; None when it does not. Raises OSError."""
        fd = os.open(self._path(sequence), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_label(fd)
        finally:
            os.close(fd)

    def put_aside(self, sequence: int, folder: Path) -> None:
        """Move a payload file to a folder of the same file system. Raises OSError."""
        path = self._path(sequence)
        os.rename(path, folder / path.name)

    def remove(self, sequence: int) -> None:
        """Remove a payload, if it is there; what cannot be removed is left to :meth:`tidy`, and to the next start."""
        self._remove(self._path(sequence))

    def tidy(self) -> None:
        """Try again to remove what could not be removed."""
        with self._lock:
            left_over, self._left_over = self._left_over, set()
        for path in left_over:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("Payload file %s could not be removed, and will be later: %s", path, error)
            with self._lock:
                self._left_over.add(path)

    def sizes_bytes(self) -> dict[int, int]:
        """Return the size of each payload file by its sequence, none where there is no folder. Raises OSError.

        Of one that cannot be looked at it is taken for granted that it is whole: that shows when it is read.
        """
        sizes: dict[int, int] = {}
        for number in range(_FOLDERS):
            with suppress(FileNotFoundError), os.scandir(self.folder / f"{number:02x}") as items:
                for item in items:
                    stem, _, suffix = item.name.partition(".")
                    if suffix == "bin" and stem.isdecimal() and self._path(int(stem)) == Path(item.path):
                        sizes[int(stem)] = _size_bytes(item)
        return sizes

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence // 256 % _FOLDERS:02x}" / f"{sequence}.bin"


def _size_bytes(item: os.DirEntry[str]) -> int:
    try:
        return item.stat().st_size
    except OSError as error:
        _log.error("Payload file %s cannot be looked at: %s", item.path, error)
        return sys.maxsize


def _read_whole(fd: int, entry: Entry, buffer: memoryview) -> memoryview:
    """Fill a buffer, whose content was another's, with a payload, and check it."""
    done = 0
    while done < len(buffer):
        count = os.readv(fd, [buffer[done:]])
        if not count:
            raise _damaged_payload(entry)
        done += count
    if not is_intact([buffer], entry.digest):
        raise _damaged_payload(entry)
    return buffer


def _damaged_payload(entry: Entry) -> StorageError:
    return damaged(f"The payload of message {entry.message_id!r} is damaged on disk.")


def _chunks(fd: int, size_bytes: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while size_bytes and (count := os.readv(fd, [buffer[:size_bytes]])):
        yield buffer[:count]
        size_bytes -= count


def _write_whole(fd: int, data: memoryview | bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        rest, offset = rest[count:], offset + count


def sync_folder(folder: Path) -> None:
    """Flush a folder. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
