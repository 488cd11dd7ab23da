"""The scratch space of engines in containers: a file system of its own for each, as large as it may be and no larger.

    <folder>/<engine>.img   a sparse file with a file system in it, which costs what is written
    <folder>/<engine>/      where that is mounted, and what the container gets

Only root can mount, and not everywhere: that is tried once. Who cannot gets plain folders without a bound, and says so.
Who could once never gives an engine a folder without a bound: what fails then fails that one start.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from pathlib import Path

from harmonicio.core.errors import StorageError
from harmonicio.core.printable import one_line
from harmonicio.core.sizes import format_size
from harmonicio.worker.removal import remove_folder

_log = logging.getLogger(__name__)

_WITHIN_S = 60.0
#: Tells whether a file system can be mounted here; no engine has this name.
_PROBE, _PROBE_BYTES = ".probe", 4 * 1024**2
_FAILURES = (OSError, subprocess.SubprocessError)
#: No journal: nothing here outlives its engine.
_MAKE = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal")
_MOUNT = ("mount", "-o", "loop,nosuid,nodev,noatime")


class ScratchVolumes:
    """Makes and removes volumes; may be used by several threads, one for each engine.

    Args:
        folder: Holds nothing else; made when it is needed.
        max_bytes: Of one engine.
        owner: User and group id to whom they belong.
    """

    def __init__(self, folder: Path, max_bytes: int, owner: tuple[int, int]) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._owner = owner
        self._lock = threading.Lock()
        self._is_bounded: bool | None = None if os.geteuid() == 0 else False

    def __repr__(self) -> str:
        bound = "without a bound" if self._is_bounded is False else f"of {format_size(self._max_bytes)}"
        return f"<ScratchVolumes {self._folder} {bound}>"

    def path(self, engine: str) -> Path:
        return self._folder / engine

    def make(self, engine: str) -> Path:
        """Make the volume of a new engine and return its path.

        Raises:
            StorageError: it cannot be made; something of it may be left for :meth:`remove`.
        """
        is_bounded = self._find_bounded()
        try:
            if is_bounded:
                self._mount(engine, self._max_bytes)
            else:
                self.path(engine).mkdir(mode=0o700, parents=True)
            os.chmod(self.path(engine), 0o700)
            os.chown(self.path(engine), *self._owner)
        except _FAILURES as error:
            raise StorageError(f"The scratch space {self.path(engine)} cannot be made: {_said(error)}.") from error
        return self.path(engine)

    def _find_bounded(self) -> bool:
        """Whether file systems can be mounted here: tried once, with a small one. What fails later is a failure.

        Raises:
            StorageError: that took too long to know.
        """
        with self._lock:
            if self._is_bounded is None:
                self.remove(_PROBE)  # A worker that was killed may have left it.
                try:
                    self._mount(_PROBE, _PROBE_BYTES)
                    self._is_bounded = True
                except subprocess.TimeoutExpired as error:
                    raise StorageError(f"No scratch space can be made at present: {_said(error)}.") from error
                except _FAILURES as error:
                    _log.warning("Scratch space is not bounded: no file system can be mounted here (%s).", _said(error))
                    self._is_bounded = False
                finally:
                    self.remove(_PROBE)
            return self._is_bounded

    def _mount(self, name: str, size_bytes: int) -> None:
        self.path(name).mkdir(mode=0o700, parents=True)
        image = self._image(name)
        with open(os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.truncate(size_bytes)
        owner = f"root_owner={self._owner[0]}:{self._owner[1]},lazy_itable_init=1,nodiscard"
        _run(*_MAKE, "-E", owner, str(image))
        _run(*_MOUNT, str(image), str(self.path(name)))
        (self.path(name) / "lost+found").rmdir()

    def remove(self, engine: str) -> None:
        """Remove the volume of an engine that has ended, with what is in it.

        Raises:
            StorageError: it cannot be removed at present.
        """
        try:
            if os.path.ismount(self.path(engine)):
                _run("umount", str(self.path(engine)))
            remove_folder(self.path(engine))
            self._image(engine).unlink(missing_ok=True)
        except _FAILURES as error:
            raise StorageError(f"The scratch space {self.path(engine)} cannot be removed: {_said(error)}.") from error

    def remove_strangers(self, known: set[str]) -> None:
        """Remove what belongs to none of these engines."""
        left = {path.name.removesuffix(".img") for path in self._folder.glob("*")} if self._folder.is_dir() else set()
        for engine in left - known:
            try:
                self.remove(engine)
            except StorageError as error:
                _log.warning("%s", error)

    def _image(self, engine: str) -> Path:
        return self._folder / f"{engine}.img"


def _said(error: Exception) -> str:
    """Return why something failed, as part of a sentence."""
    reason = getattr(error, "stderr", "") or getattr(error, "strerror", "") or str(error)
    return one_line(str(reason))[:200].rstrip(".")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_WITHIN_S, stdin=subprocess.DEVNULL)
