"""Removes what an engine has left: its code could put anything into its folders.

    top/a/b/c ──►  top/<drawn>/c, a removed ──►  top/<drawn>, the one above removed ──►  …

What is in a folder is moved up before the folder is removed, so nothing is ever deeper than two, and neither the depth
of folders nor the length of their paths matters. Links are not followed, and what may not be entered is made so that it
may. Nothing that lies there raises: what cannot be removed is said and stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

_OWNER_MAY_ALL = 0o700


def remove_folder(path: Path) -> bool:
    """Remove a folder with all that is in it, as far as that can be done; may take a while.

    Returns:
        Whether nothing is left.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        with _opened(str(path)) as top:
            _Removal(top).run()
        path.rmdir()
    except OSError as error:
        _log.warning("%s cannot be removed: %s", path, error.strerror or error)
        return False
    return True


class _Removal:
    """Empties one folder."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._done = 0
        self._failure: OSError | None = None

    def __repr__(self) -> str:
        return f"<_Removal {self._done} done>"

    def run(self) -> None:
        """Go on for as long as anything becomes less.

        Raises:
            OSError: something is left.
        """
        done_before = -1
        while self._done != done_before:
            done_before, self._failure = self._done, None
            self._clear(self._top)
        if self._failure is not None:
            raise self._failure

    def _clear(self, folder: int) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    self._take(folder, entry)
                    self._done += 1
                except OSError as error:
                    self._failure = error

    def _take(self, folder: int, entry: os.DirEntry[str]) -> None:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
            return
        with _opened(entry.name, folder) as inner:
            if folder == self._top:
                self._clear(inner)
        if folder == self._top:
            os.rmdir(entry.name, dir_fd=folder)
        else:
            os.rename(entry.name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=self._top)


@contextlib.contextmanager
def _opened(name: str, above: int | None = None) -> Iterator[int]:
    """Open a folder in which its owner may do everything from now on."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        mode = os.fstat(found).st_mode & 0o7777
        if mode & _OWNER_MAY_ALL != _OWNER_MAY_ALL:
            with contextlib.suppress(OSError):  # It is another user's: we may do there what we may do.
                os.chmod(f"/proc/self/fd/{found}", mode | _OWNER_MAY_ALL)
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
    finally:
        os.close(found)
    try:
        yield opened
    finally:
        os.close(opened)
