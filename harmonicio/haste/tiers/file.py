"""A tier in a folder: one file per message, in a folder per stream.

    <folder>/<stream>/<message id, percent-encoded>          long ids: their first bytes, "~", a digest
                                                             id taken by other bytes: the name, "~", their digest

Written to a draft, fsynced, linked to its name, and the folder fsynced: a file is whole or absent, and never replaces
other bytes. Names that try to leave the folder cannot: every byte but letters, digits, ``-``, ``_`` and inner ``.`` is
encoded. Symbolic links below the folder are refused, and everything is opened relative to the stream's open folder, so
that nobody can plant one between check and use. Neither is anything else that is no file, such as a pipe, which would
keep its reader waiting for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harmonicio.core.errors import StorageError
from harmonicio.core.names import check_name
from harmonicio.haste.options import check_options, path_option
from harmonicio.haste.tiers.base import Kept

MAX_NAME_BYTES = 180
CHUNK_BYTES = 1024**2
_DRAFT = ".draft-"
#: What file systems say that know no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class FileTier:
    """Keeps payloads as files.

    Args:
        name: The tier's name, for errors.
        folder: Absolute path; made when it is missing.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder

    def __repr__(self) -> str:
        return f"<FileTier {self._name} in {self._folder}>"

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        view = memoryview(payload).cast("B")
        with self._errors("written"), self._opened(stream, is_made=True) as folder:
            draft = f"{_DRAFT}{os.getpid()}-{os.urandom(4).hex()}"
            try:
                _write_whole(folder, draft, view)
                name = _settle(folder, draft, encode(message_id), view)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=folder)
            os.fsync(folder)
        return f"{stream}/{name}"

    def read(self, location: str) -> bytes:
        stream, name = self._parts(location)
        with (
            self._errors("read"),
            self._opened(stream) as folder,
            open(_open_file(folder, name), "rb", buffering=0) as file,
        ):
            return file.readall()

    def remove(self, location: str) -> None:
        stream, name = self._parts(location)
        with self._errors("removed"), suppress(FileNotFoundError), self._opened(stream) as folder:
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def contents(self, stream: str) -> Iterator[Kept]:
        """Yield what is kept, and the drafts that a crash has left."""
        with self._errors("read"):
            try:
                with self._opened(stream) as folder:
                    found = [(name, os.lstat(name, dir_fd=folder)) for name in sorted(os.listdir(folder))]
            except FileNotFoundError:
                return
        for name, about in found:
            if stat.S_ISREG(about.st_mode):
                yield Kept(f"{stream}/{name}", about.st_size, about.st_mtime)

    @contextmanager
    def _opened(self, stream: str, *, is_made: bool = False) -> Iterator[int]:
        """Open the folder of a stream, never through a symbolic link; ``is_made``: make it where it is missing."""
        path = self._folder / check_name("stream", stream)
        if is_made and not path.exists():
            path.mkdir(parents=True, exist_ok=True)
            for holder in (self._folder, self._folder.parent):
                _sync(holder)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _parts(self, location: str) -> tuple[str, str]:
        stream, _, name = location.partition("/")
        if not name or "/" in name or name in (".", "..") or "\0" in name:
            raise StorageError(f"{location!r:.80} is no location in the tier {self._name!r}.")
        return stream, name

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
            reason = "a symbolic link or a file is in the way" if is_link else error.strerror or str(error)
            raise StorageError(
                f"The tier {self._name!r} cannot be {done}: {reason} ({self._folder}).",
                hint="Make the folder writable and see that there is room.",
            ) from error


def create(name: str, options: Mapping[str, Any]) -> FileTier:
    """Options: ``folder``, an absolute path."""
    what = f"The file tier {name!r}"
    check_options(what, options, ("folder",))
    return FileTier(name, path_option(what, options, "folder"))


def encode(message_id: str) -> str:
    """Return a file name for a message id: different ids, different names; one without ``~`` can be unquoted."""
    name = quote(message_id, safe="").replace("~", "%7E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= MAX_NAME_BYTES:
        return name
    return f"{name[: MAX_NAME_BYTES - 33]}~{blake2b(message_id.encode(), digest_size=16).hexdigest()}"


def _settle(folder: int, draft: str, name: str, payload: memoryview) -> str:
    """Give a draft its name, or find the file which has its bytes already; return the name."""
    while not _take_name(folder, draft, name):
        # What is gone by now was the copy of an attempt that was not the first: the name is free again.
        with suppress(FileNotFoundError):
            if _is_same(folder, name, payload):
                return name
            if name.endswith(digest := f"~{blake2b(payload, digest_size=16).hexdigest()}"):
                raise FileExistsError(errno.EEXIST, f"{name} does not have the bytes that it is named after")
            name += digest
    return name


def _take_name(folder: int, draft: str, name: str) -> bool:
    """Link a draft to a name; return whether the name was free."""
    try:
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _exists(folder, name):
            return False
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def _is_same(folder: int, name: str, payload: memoryview) -> bool:
    """Return whether a file has these bytes; it counts as written just now then."""
    with open(_open_file(folder, name), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != len(payload):
            return False
        chunks = (payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES))
        if not all(file.read(len(chunk)) == chunk for chunk in chunks):
            return False
        os.utime(file.fileno())
        return True


def _exists(folder: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _write_whole(folder: int, name: str, payload: memoryview) -> None:
    with open(_open(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0) as file:
        written = 0
        while written < len(payload):
            written += file.write(payload[written : written + 2**30])
        os.fsync(file.fileno())


def _open_file(folder: int, name: str) -> int:
    """Open what is a file, for reading; anything else is an OSError, at once."""
    file = _open(folder, name, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, f"{name} is no file")
    return file


def _open(folder: int, name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640, dir_fd=folder)


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
