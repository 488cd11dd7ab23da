"""SQLite's write-ahead log, kept so short that a full disk can always be emptied.

What is committed lies in the log until a checkpoint has copied it to the index, which grows by that. When neither can
grow, the log cannot be emptied, each commit needs more of it, and nothing would ever leave a full disk. So the log is
emptied when it is half as long as the ballast, and no transaction takes more payloads than a quarter of it: what the
log holds fits in the place of the ballast. What the index does not need any more goes back to the disk, so that there
is room for the ballast again.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

#: Where no ballast is held.
_LOG_MAX_BYTES = 4 * 1024**2
_PAGE_BYTES = 4096


class WriteAheadLog:
    """The log behind one writing connection, used by one thread.

    Args:
        path: Of the index.
        ballast_bytes: What is held back.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, ballast_bytes: int) -> None:
        self._max_bytes = ballast_bytes // 2 or _LOG_MAX_BYTES
        self.transaction_max_bytes = self._max_bytes // 2
        self._connection = connection
        self._path = path.with_name(f"{path.name}-wal")

    def __repr__(self) -> str:
        return f"<WriteAheadLog {self._path}>"

    @property
    def is_long(self) -> bool:
        """Whether it is time for a checkpoint."""
        try:
            return os.stat(self._path).st_size > self._max_bytes
        except FileNotFoundError:
            return False

    def shorten(self) -> None:
        """Bring what was committed into the index, and empty the log; somebody who reads just now leaves it as it is.

        Raises:
            sqlite3.Error: the disk does not take it.
        """
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def give_back(self) -> None:
        """Return some of the index's free pages to the disk. Raises sqlite3.Error."""
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free:
            pages = max(1, self.transaction_max_bytes // _PAGE_BYTES)
            self._connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
            self.shorten()
