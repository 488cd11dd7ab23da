"""Every call by which the backlog's store changes or reads its disk, by name, shown to a watch before it is done.

    payload.open       a payload file is made            index.write        SQLite writes a page of the index
    payload.allocate   its space is taken                index.sync         … and flushes it (a checkpoint)
    payload.write      it is written                     wal.open           SQLite makes its write-ahead log
    payload.sync       it is flushed                     wal.write          … writes to it
    payload.unlink     it is removed                     wal.sync           … flushes it: the commit is on the disk
    payload.look       it is opened to be read           wal.unlink         … removes it when the store is closed
    payload.read       it is read                        index.read …       SQLite reads
    folder.mkdir       a folder of payloads is made      ballast.open|allocate|unlink
    folder.sync        … or flushed                      quarantine.*, lock.open, store.mkdir, store.sync

A name is a kind of file and an operation. :func:`watch_disk` needs no hook in the product: it puts itself in front of
the functions of ``os`` and of SQLite's files (:mod:`benches.sqlite_files`), for the life of the process. So it belongs
in child processes: a fork of the test, or a program such as :mod:`benches.crash_points`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.sqlite_files import watch_sqlite

#: Returned by a watch: a write takes only half of what it was given, which is no error.
SHORT = -1
_SUFFIXES = {"-wal": "wal", "-journal": "journal", "-shm": "shm"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its name, the file, and for writes and truncations where and what."""

    name: str
    path: Path
    offset: int = 0
    data: bytes = b""
    #: Where a renamed file goes.
    target: Path | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the call leaves the disk as it is."""
        return self.name.endswith((".read", ".look"))


class Watch:
    """Sees every call, and may make it fail. Called by the thread that makes the call."""

    def before(self, call: Call) -> int:
        """Return 0 to have it done, or the errno with which it fails, or ``SHORT``."""
        return 0

    def after(self, call: Call) -> None:
        """It was done."""

    def told(self) -> list[str]:
        """Return what the watch has to tell in the end."""
        return []


def watch_disk(folder: Path, watch: Watch) -> None:
    """Have all calls on a store's folder and on what is in it watched, for the life of this process."""
    calls = _Calls(folder, watch)
    watch_sqlite(_SqliteCalls(calls))
    for name in ("write", "pwrite", "writev"):
        setattr(os, name, calls.writing(getattr(os, name)))
    for name, operation in (("fsync", "sync"), ("fdatasync", "sync"), ("posix_fallocate", "allocate")):
        setattr(os, name, calls.plain(getattr(os, name), operation))
    for name, operation in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir")):
        setattr(os, name, calls.plain(getattr(os, name), operation))
    for name in ("read", "readv", "pread", "preadv"):
        setattr(os, name, calls.plain(getattr(os, name), "read"))
    for name in ("ftruncate", "truncate"):
        setattr(os, name, calls.plain(getattr(os, name), "truncate"))
    for name in ("rename", "replace", "link"):
        setattr(os, name, calls.renaming(getattr(os, name)))
    os.open = calls.opening(os.open)  # type: ignore[assignment]


def kind_of(folder: Path, path: Path) -> str:
    """Return what kind of file or folder this is in a store."""
    parts = path.relative_to(folder).parts
    if not parts:
        return "store"
    if parts[0] == "payloads":
        return "payload" if len(parts) == 3 else "folder"
    stem, _, suffix = parts[0].partition(".")
    if suffix.startswith("sqlite"):
        return next((kind for ending, kind in _SUFFIXES.items() if suffix.endswith(ending)), "index")
    return stem


class _Calls:
    def __init__(self, folder: Path, watch: Watch) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._watch = watch

    def call(self, operation: str, where: Any, offset: int = 0, data: bytes = b"", target: Any = None) -> Call | None:
        """Return the call on a path or a file descriptor; None when it is not the store's."""
        if isinstance(where, int):
            try:
                where = os.readlink(f"/proc/self/fd/{where}").removesuffix(" (deleted)")
            except OSError:
                return None
        path = Path(os.path.abspath(os.fspath(where)))
        if path != self._folder and self._folder not in path.parents:
            return None
        aim = None if target is None else Path(os.path.abspath(os.fspath(target)))
        return Call(f"{kind_of(self._folder, path)}.{operation}", path, offset, data, aim)

    def before(self, call: Call) -> int:
        return self._watch.before(call)

    def after(self, call: Call) -> None:
        self._watch.after(call)

    def _ask(self, call: Call) -> None:
        if number := self._watch.before(call):
            raise OSError(number if number > 0 else errno.EIO, os.strerror(max(number, errno.EIO)), str(call.path))

    def plain(self, usual: Callable[..., Any], operation: str) -> Callable[..., Any]:
        def watched(where: Any, *given: Any, **more: Any) -> Any:
            call = self.call(operation, where, given[-1] if operation in ("truncate", "allocate") and given else 0)
            if call is None:
                return usual(where, *given, **more)
            self._ask(call)
            answer = usual(where, *given, **more)
            self._watch.after(call)
            return answer

        return watched

    def renaming(self, usual: Callable[..., Any]) -> Callable[..., Any]:
        def watched(where: Any, target: Any, **more: Any) -> None:
            call = self.call("rename", where, target=target)
            if call is not None:
                self._ask(call)
            usual(where, target, **more)
            if call is not None:
                self._watch.after(call)

        return watched

    def opening(self, usual: Callable[..., int]) -> Callable[..., int]:
        def watched(path: Any, flags: int, *given: Any, **more: Any) -> int:
            call = self.call("open" if flags & os.O_CREAT else "look", path)
            if call is None:
                return usual(path, flags, *given, **more)
            self._ask(call)
            fd = usual(path, flags, *given, **more)
            self._watch.after(call)
            return fd

        return watched

    def writing(self, usual: Callable[..., int]) -> Callable[..., int]:
        """A write that fails has written the first half."""

        def watched(fd: int, data: Any, *offset: int) -> int:
            call = self.call("write", fd)
            if call is None:
                return usual(fd, data, *offset)
            number = self._watch.before(call)
            if number and not isinstance(data, (list, tuple)):
                written = usual(fd, memoryview(data)[: max(1, len(data) // 2)], *offset)
                if number == SHORT:
                    return written
            if number:
                raise OSError(number, os.strerror(number), str(call.path))
            written = usual(fd, data, *offset)
            self._watch.after(call)
            return written

        return watched


class _SqliteCalls:
    """SQLite's calls by our names."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def before(self, operation: str, path: str, offset: int = 0, data: bytes = b"") -> int:
        call = self._calls.call(operation, path, offset, data) if path else None
        return 0 if call is None else max(0, self._calls.before(call))

    def after(self, operation: str, path: str) -> None:
        if path and (call := self._calls.call(operation, path)) is not None:
            self._calls.after(call)
