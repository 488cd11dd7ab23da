"""Files that only this user may read, tokens and keys: whole or absent, and shown to nobody else meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harmonicio.core.errors import ConfigurationError


@contextmanager
def new_private_file(path: Path, what: str = "token file") -> Iterator[TextIO]:
    """Open a file that only this user can read, before what goes into it is known.

    What is written takes its place when the block ends well; otherwise what was there before stays.

    Raises:
        ConfigurationError: it cannot be written there; the block is not entered where that is known before.
    """
    with _new_file(path, what, 0o600) as file:
        yield file


def write_private_file(path: Path, text: str, what: str = "token file") -> None:
    """Write a file that only this user can read.

    Raises:
        ConfigurationError: it cannot be written there.
    """
    with _new_file(path, what, 0o600) as file:
        file.write(text)


def write_public_file(path: Path, text: str, what: str) -> None:
    """Write a file that everybody may read, whole at once.

    Raises:
        ConfigurationError: it cannot be written there.
    """
    with _new_file(path, what, 0o644) as file:
        file.write(text)


def check_private(path: Path, what: str) -> None:
    """See that nobody else can read a file.

    Raises:
        ConfigurationError: others can.
    """
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"The {what} {path} can be read by other users.", hint=f"Run: chmod 600 {path}")


@contextmanager
def _new_file(path: Path, what: str, mode: int) -> Iterator[TextIO]:
    draft = path.parent / f".{path.name}.{os.getpid()}"
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"The {what} {path} cannot be written: it is not a regular file.")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "w") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The {what} {path} cannot be written: {error.strerror}.") from None
