"""The limits of the backlog: bare loops that do no more than any store must do to answer ``stored``, or to read again.

Files are written by as many threads as the store has, each flushed; the folder is flushed once for as many files.
Small messages are rows of SQLite with a log that is flushed at each commit, in groups.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Thread

from harmonicio.master.backlog.payload_files import sync_folder
from micro.sizes import payload_of

#: Rows of one commit: more of them make it no faster.
GROUP_ROWS = 512
_KEPT_PAGES = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"


def written_per_s(folder: Path, size_bytes: int, messages: int, threads: int) -> float:
    """Write and flush files with some threads; return how many in a second. They are removed again."""
    payload = memoryview(payload_of(size_bytes))
    names = [folder / f"{number}.bin" for number in range(messages)]
    writers = [
        Thread(target=_write, args=(folder, names[number::threads], payload, threads)) for number in range(threads)
    ]
    begun = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    took_s = time.perf_counter() - begun
    for name in names:
        name.unlink()
    return messages / took_s


def _write(folder: Path, names: Sequence[Path], payload: memoryview, threads: int) -> None:
    for number, name in enumerate(names):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            rest = payload
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        if number % threads == 0:
            sync_folder(folder)


def committed_per_s(folder: Path, size_bytes: int, messages: int) -> float:
    """Commit rows in groups; return how many in a second."""
    payload, path = payload_of(size_bytes), folder / "bare.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_KEPT_PAGES + "CREATE TABLE rows (number INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        begun = time.perf_counter()
        for first in range(0, messages, GROUP_ROWS):
            connection.execute("BEGIN IMMEDIATE")
            group = range(first, min(first + GROUP_ROWS, messages))
            connection.executemany("INSERT INTO rows VALUES (?, ?)", ((number, payload) for number in group))
            connection.execute("COMMIT")
        took_s = time.perf_counter() - begun
    path.unlink()
    return messages / took_s


def make_cold(files: Sequence[Path]) -> None:
    """Let the kernel forget what it has of files, which are on the disk already."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def read_per_s(files: Sequence[Path]) -> float:
    """Read whole files, one after the other, into one kept buffer; return how many in a second."""
    buffer = memoryview(bytearray(max(file.stat().st_size for file in files)))
    begun = time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return len(files) / (time.perf_counter() - begun)
