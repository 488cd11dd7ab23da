"""SQLite files that one process has for itself, as it has the folder they are in.

Processes that share a database meet in a file ``-shm`` beside it, which is made anew when the first of them opens it.
On a full disk there is no room for that, and what is kept there could never leave it. Who is alone needs no such file:
what would be in it is in memory.
"""

from __future__ import annotations

from pathlib import Path

#: SQLite's name for this way to treat files.
VFS = "unix-excl"


def lone_uri(file: Path) -> str:
    """Return what :func:`sqlite3.connect` takes with ``uri=True``; while it is open, no other process can open it."""
    return f"{file.absolute().as_uri()}?vfs={VFS}"
