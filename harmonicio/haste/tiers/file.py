"""A tier in a folder: one file per message, in a folder per stream.

    <folder>/<stream>/<message id, percent-encoded>          long ids: their first bytes, "~", a digest

Written to a temporary name, fsynced, renamed, and the folder fsynced: a file is whole or absent. Names that try to
leave the folder cannot: every byte but letters, digits, ``-``, ``_`` and inner ``.`` is encoded, and symbolic links are
not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.names import check_name
from harmonicio.haste.registry import check_options

MAX_NAME_BYTES = 180
_DRAFT = ".draft-"


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
        location = f"{check_name('stream', stream)}/{encode(message_id)}"
        target = self._folder / location
        draft = target.with_name(f"{_DRAFT}{os.getpid()}-{os.urandom(4).hex()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._check_no_link(target.parent)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    _write_all(file.fileno(), memoryview(payload))
                    os.fsync(file.fileno())
                os.replace(draft, target)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        except OSError as error:
            raise self._broken("written", error) from None
        return location

    def read(self, location: str) -> bytes:
        try:
            descriptor = os.open(self._path(location), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                return file.read()
        except OSError as error:
            raise self._broken("read", error) from None

    def remove(self, location: str) -> None:
        try:
            self._path(location).unlink(missing_ok=True)
        except OSError as error:
            raise self._broken("removed", error) from None

    def contents(self, stream: str) -> Iterator[tuple[str, str]]:
        folder = self._folder / check_name("stream", stream)
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        for name in names:
            if not name.startswith(_DRAFT):
                yield decode(name), f"{stream}/{name}"

    def _path(self, location: str) -> Path:
        stream, _, name = location.partition("/")
        if not name or "/" in name or name in (".", "..") or "\0" in name:
            raise StorageError(f"{location!r:.80} is no location in the tier {self._name!r}.")
        folder = self._folder / check_name("stream", stream)
        self._check_no_link(folder)
        return folder / name

    def _check_no_link(self, folder: Path) -> None:
        if folder.is_symlink():
            raise StorageError(f"{folder} is a symbolic link; the tier {self._name!r} does not follow it.")

    def _broken(self, done: str, error: OSError) -> StorageError:
        return StorageError(
            f"The tier {self._name!r} cannot be {done}: {error.strerror or error} ({self._folder}).",
            hint="Make the folder writable and see that there is room.",
        )


def create(name: str, options: Mapping[str, Any]) -> FileTier:
    """Options: ``folder``, an absolute path."""
    check_options(f"The file tier {name!r}", options, ("folder",))
    folder = Path(str(options.get("folder", "")))
    if not folder.is_absolute():
        raise ConfigurationError(f"The file tier {name!r} needs an absolute 'folder', not {str(folder)!r:.80}.")
    return FileTier(name, folder)


def encode(message_id: str) -> str:
    """Return a file name for a message id; different ids have different names."""
    name = quote(message_id, safe="").replace("~", "%7E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= MAX_NAME_BYTES:
        return name
    return f"{name[: MAX_NAME_BYTES - 33]}~{blake2b(message_id.encode(), digest_size=16).hexdigest()}"


def decode(name: str) -> str:
    """Return the message id of a file name, or of a long one its beginning and digest."""
    return unquote(name)


def _write_all(descriptor: int, payload: memoryview) -> None:
    written = 0
    while written < len(payload):
        written += os.write(descriptor, payload[written : written + 2**30])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
