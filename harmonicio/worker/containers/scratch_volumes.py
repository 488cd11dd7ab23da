"""The scratch space of engines in containers: a file system of its own for each, as large as it may be and no larger.

    <folder>/<engine>.img   a sparse file with a file system in it, which costs what is written
    <folder>/<engine>/      where that is mounted, and what the container gets

Only root can mount. Who cannot gets plain folders without a bound, and says so once.
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
        self._is_bounded = os.geteuid() == 0

    def __repr__(self) -> str:
        bound = f"of {format_size(self._max_bytes)}" if self._is_bounded else "without a bound"
        return f"<ScratchVolumes {self._folder} {bound}>"

    def path(self, engine: str) -> Path:
        return self._folder / engine

    def make(self, engine: str) -> Path:
        """Make the volume of a new engine and return its path.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            self.path(engine).mkdir(mode=0o700, parents=True)
            if self._is_bounded:
                self._mount(engine)
            os.chmod(self.path(engine), 0o700)
            os.chown(self.path(engine), *self._owner)
        except OSError as error:
            raise StorageError(f"The scratch space {self.path(engine)} cannot be made: {error.strerror}.") from error
        return self.path(engine)

    def _mount(self, engine: str) -> None:
        image = self._image(engine)
        with open(os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.truncate(self._max_bytes)
        try:
            owner = f"root_owner={self._owner[0]}:{self._owner[1]},lazy_itable_init=1,nodiscard"
            _run(*_MAKE, "-E", owner, str(image))
            _run(*_MOUNT, str(image), str(self.path(engine)))
        except (OSError, subprocess.SubprocessError) as error:
            image.unlink()
            self._go_on_without(error)
            return
        (self.path(engine) / "lost+found").rmdir()

    def _go_on_without(self, error: Exception) -> None:
        with self._lock:
            if self._is_bounded:
                said = one_line(str(getattr(error, "stderr", "") or error))[:200]
                _log.warning("Scratch space is not bounded: no file system can be mounted here (%s).", said)
            self._is_bounded = False

    def remove(self, engine: str) -> None:
        """Remove the volume of an engine that has ended, with what is in it."""
        if os.path.ismount(self.path(engine)):
            try:
                _run("umount", str(self.path(engine)))
            except (OSError, subprocess.SubprocessError) as error:
                _log.warning("The scratch space of engine %s cannot be removed yet: %s", engine, error)
                return
        remove_folder(self.path(engine))
        self._image(engine).unlink(missing_ok=True)

    def remove_strangers(self, known: set[str]) -> None:
        """Remove what belongs to none of these engines."""
        left = {path.name.removesuffix(".img") for path in self._folder.glob("*")} if self._folder.is_dir() else set()
        for engine in left - known:
            self.remove(engine)

    def _image(self, engine: str) -> Path:
        return self._folder / f"{engine}.img"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_WITHIN_S, stdin=subprocess.DEVNULL)
