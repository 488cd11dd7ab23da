"""What each handler of an engine runs, in a small file that the engine maps and its controller reads.

    <engine's folder>/handlers   one row for each handler slot:   since f64 │ length u8 │ phase u8 │ message id, 200 B

A handler can keep the interpreter's lock for minutes (one regular expression is enough), and can end the process at
once: in both cases no thread of the engine is left to say which message it was. The row is written before the handler
runs, costs 0.2 µs, stays when the process is killed, and is read without the engine's help.

``since`` is the monotonic clock, which all processes of a host share. A row of length 0 runs nothing. The phase is 0
while the handler runs, and 1 from when it has returned until what came of the message is kept; then ``since`` says when
it returned. A store that hangs must not look like a handler that does.

The engine's code could write anything there: no more rows are read than handlers were declared, and only message ids.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path

from harmonicio.control.messages import RunningMessage
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.core.names import MAX_MESSAGE_ID_BYTES, check_message_id

BOARD_NAME = "handlers"
_ROW = struct.Struct(f"<dBB{MAX_MESSAGE_ID_BYTES}s")
_RUNS, _HAS_RETURNED = 0, 1


class HandlerBoard:
    """The engine's end: it writes.

    Args:
        path: Replaced by an empty board.
        rows: Handlers that can run at the same time.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(self, path: Path, rows: int) -> None:
        size_bytes = rows * _ROW.size
        try:
            path.unlink(missing_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, size_bytes)  # Else a full disk would end the process at the first write.
                self._rows = mmap.mmap(file, size_bytes)
                self._inode = os.fstat(file).st_ino
            finally:
                os.close(file)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {error.strerror or error}.") from error
        self._path = path

    def __repr__(self) -> str:
        return f"<HandlerBoard {self._path} {'closed' if self._rows.closed else 'open'}>"

    @property
    def is_intact(self) -> bool:
        """Whether its file is still where the controller reads it."""
        try:
            return os.stat(self._path, follow_symlinks=False).st_ino == self._inode
        except OSError:
            return False

    def begin(self, row: int, message_id: str, since: float) -> None:
        """Say that a handler begins with a message."""
        raw_id = message_id.encode()
        _ROW.pack_into(self._rows, row * _ROW.size, since, len(raw_id), _RUNS, raw_id)

    def returned(self, row: int, message_id: str, since: float) -> None:
        """Say that the handler has returned, and that what came of its message is being kept."""
        raw_id = message_id.encode()
        _ROW.pack_into(self._rows, row * _ROW.size, since, len(raw_id), _HAS_RETURNED, raw_id)

    def end(self, row: int) -> None:
        """Say that a handler runs nothing."""
        _ROW.pack_into(self._rows, row * _ROW.size, 0.0, 0, _RUNS, b"")

    def close(self) -> None:
        """Let go of the file; nothing may be written any more."""
        self._rows.close()


def read_board(path: Path, rows: int) -> tuple[RunningMessage, ...] | None:
    """Return what an engine's handlers run, or None when it has no board; never blocks.

    A row that changes while it is read has just begun or ended, and is left out.

    Args:
        rows: Handlers that can run at the same time; what else is in the file is not looked at.
    """
    try:
        # The engine could put anything in its folder: a link, or a pipe that never says anything.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        first, second = (os.pread(file, rows * _ROW.size, 0) for _ in range(2))
    except OSError:
        return None
    finally:
        os.close(file)
    return _running(first, second, time.monotonic())


def _running(first: bytes, second: bytes, now: float) -> tuple[RunningMessage, ...]:
    running = []
    for at in range(0, min(len(first), len(second)) - _ROW.size + 1, _ROW.size):
        since, length, phase, raw_id = _ROW.unpack_from(first, at)
        is_settled = first[at : at + _ROW.size] == second[at : at + _ROW.size]
        is_row = 0 < length <= MAX_MESSAGE_ID_BYTES and phase in (_RUNS, _HAS_RETURNED) and math.isfinite(since)
        if is_settled and is_row:
            with suppress(UnicodeDecodeError, InvalidInput):  # Only a message has an id, and only messages are told of.
                message = check_message_id(raw_id[:length].decode())
                running.append(RunningMessage(message, max(0.0, now - since), phase == _HAS_RETURNED))
    return tuple(running)
