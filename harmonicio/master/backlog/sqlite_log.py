"""SQLite's write-ahead log, kept so short that a full disk can always be emptied.

What is committed lies in the log until a checkpoint has copied it to the index, which grows by that. When neither can
grow, the log cannot be emptied, each commit needs more of it, and nothing would ever leave a full disk. So the log is
never longer than what fits in the place of the ballast, and no transaction is larger than half of it. What the index
does not need any more goes back to the disk, so that there is room for the ballast again.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

#: With a transaction on top still less than the ballast.
LOG_MAX_BYTES = 4 * 1024**2
TRANSACTION_MAX_BYTES = LOG_MAX_BYTES // 2
_PAGES_GIVEN_BACK = 256


class WriteAheadLog:
    """The log behind one writing connection, used by one thread.

    Args:
        path: Of the index.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path.with_name(f"{path.name}-wal")

    def __repr__(self) -> str:
        return f"<WriteAheadLog {self._path}>"

    @property
    def is_long(self) -> bool:
        """Whether it is time for a checkpoint."""
        try:
            return os.stat(self._path).st_size > LOG_MAX_BYTES
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
            self._connection.execute(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK})").fetchall()
            self.shorten()
