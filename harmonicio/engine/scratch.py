"""Folders on the scratch volume that do not outlive their use, even where their process was killed.

    $TMPDIR/harmonicio-<random>/           of one process, locked (flock) until it ends, however it ends
                            <random>/      of one message

The next process finds what has no lock any more, and removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harmonicio.core.errors import StorageError

PREFIX = "harmonicio-"


class Scratch:
    """This process's folder.

    Raises:
        StorageError: the scratch volume cannot take it.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        self._exits = contextlib.ExitStack()
        with _opened(parent) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # So that no other process sees the folder before it is locked.
            _remove_abandoned(parent)
            self._folder = _new_folder(parent, PREFIX)
            fcntl.flock(self._exits.enter_context(_opened(self._folder)), fcntl.LOCK_EX)

    def __repr__(self) -> str:
        return f"<Scratch {self._folder}>"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder that is removed in the end with all that is in it.

        Raises:
            StorageError: the scratch volume cannot take it.
        """
        folder = _new_folder(self._folder)
        try:
            yield Path(folder)
        finally:
            _remove(folder)

    def close(self) -> None:
        """Remove everything."""
        _remove(self._folder)
        self._exits.close()


@contextlib.contextmanager
def _opened(folder: str, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _new_folder(parent: str, prefix: str = "") -> str:
    try:
        return tempfile.mkdtemp(prefix=prefix, dir=parent)
    except OSError as error:
        raise StorageError(f"No folder can be made in {parent}: {error.strerror or error}.") from None


def _remove_abandoned(parent: str) -> None:
    for path in Path(parent).glob(f"{PREFIX}*"):
        # What cannot be opened or locked is somebody else's.
        with contextlib.suppress(OSError), _opened(str(path), os.O_NOFOLLOW) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(str(path))


def _remove(folder: str) -> None:
    """Remove a folder as far as possible: what was made read-only, too, but not what is another user's or too deep."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
        for path, inner, _ in os.walk(folder):
            for each in (os.path.join(path, name) for name in inner):
                if not os.path.islink(each):
                    with contextlib.suppress(OSError):
                        os.chmod(each, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
