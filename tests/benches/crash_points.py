"""A process that ends by SIGKILL exactly at a named call of the backlog's store; and a master that does.

    python tests/benches/crash_points.py POINT master run       as `harmonicio master run`, which dies at POINT
    python tests/benches/crash_points.py list master run        … which tells each point on standard error

POINT is [before.|after.]KIND.OPERATION[:N]: the N-th such call of the process (1 when it is left out), right before it
is done unless it says `after`. :mod:`benches.disk_calls` lists the names. Examples:

    payload.sync:3          a third payload has been written and is not flushed
    after.payload.sync:3    … is flushed, its row is not written
    wal.write:40            amid a transaction
    after.wal.sync:12       the twelfth commit is on stable storage, nobody has been told
    payload.unlink          a message is finished, its file is still there
    any:500                 the 500th call of all, whatever it is (reads aside)

Settings come from the environment, as always. The exit status is that of a killed process, or that of the command when
the point is never reached. With :class:`benches.roles.Roles`:

    with roles.running("master", through=crash_points.program("wal.sync:20")) as master: ...

In a test that forks: ``watch_disk(folder, CrashPoint.of("after.wal.sync:3"))`` in the child, before it opens its store.
:data:`MASTER_POINTS` are those that every busy master with large and small messages passes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benches.disk_calls import Call, Watch, watch_disk

MASTER_POINTS = (
    "payload.open",
    "payload.write",
    "payload.sync",
    "after.payload.sync",
    "folder.sync",
    "after.folder.sync",
    "wal.write",
    "wal.sync",
    "after.wal.sync",
    "payload.unlink",
    "after.payload.unlink",
    "any",
)


def program(point: str) -> list[str]:
    """Return what stands between the interpreter and a command, so that the command dies there."""
    return [__file__, point]


def die() -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashPoint(Watch):
    """Ends the process at the n-th call of a name, before or after it is done."""

    def __init__(self, name: str, number: int = 1, *, is_after: bool = False) -> None:
        self._name = name
        self._left = number
        self._is_after = is_after
        self._lock = threading.Lock()
        self._is_last = threading.local()

    @classmethod
    def of(cls, text: str) -> CrashPoint:
        """Return the point that a text names, as the module's first lines say."""
        name, _, number = text.partition(":")
        is_after = name.startswith("after.")
        return cls(name.removeprefix("after.").removeprefix("before."), int(number or 1), is_after=is_after)

    def before(self, call: Call) -> int:
        is_meant = call.name == self._name or (self._name == "any" and not call.is_reading)
        if not is_meant:
            return 0
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last and not self._is_after:
            die()
        self._is_last.value = is_last
        return 0

    def after(self, call: Call) -> None:
        if getattr(self._is_last, "value", False):
            die()

    def told(self) -> list[str]:
        """Return how many more such calls it waited for; 0 or less when it should have ended the process."""
        return [str(self._left)]


class Recorder(Watch):
    """Remembers the names of all calls, with their numbers: ``payload.sync:3``."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def before(self, call: Call) -> int:
        with self._lock:
            self._counts[call.name] += 1
            self.points.append(f"{call.name}:{self._counts[call.name]}")
        return 0

    def told(self) -> list[str]:
        return self.points


class Teller(Recorder):
    """Says each call on standard error."""

    def before(self, call: Call) -> int:
        super().before(call)
        os.write(2, f"{self.points[-1]}\n".encode())
        return 0


def main(point: str, *command: str) -> int:
    from harmonicio.cli.__main__ import main as run
    from harmonicio.control.settings_files import load_settings

    folder = load_settings(None).master.data_folder / "backlog"
    watch_disk(folder, Teller() if point == "list" else CrashPoint.of(point))
    return run(command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
