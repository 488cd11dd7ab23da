"""Whole lives of a store in processes of their own, each under one watch; and which points of a life are tried.

Short runs take some calls of every name: the first, the last, and others between them; with ``STORE_FAULTS=all`` it is
every single one, which ``make store-faults`` asks for.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benches import forks
from benches.crash_points import Recorder
from benches.disk_calls import Watch, watch_disk
from benches.store_story import Notes, live

IS_FULL = os.environ.get("STORE_FAULTS") == "all"
#: 256 folders are made one after the other, twice: some of them will do.
SOME_FOLDERS = 4


@contextmanager
def life(make_watch: Callable[[Path], Watch], *, prepare: Callable[[], object] | None = None) -> Iterator[Life]:
    """Let a store live under a watch; the block sees what is left of it."""
    with forks.quick_folder() as made:
        one = Life(Path(made))
        yield one.run(make_watch, prepare)


class Life:
    """A folder with what one life has left: the store, its notes, the exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.notes, self.said = folder / "store", folder / "notes", folder / "said"
        self.exit_code = 0

    def run(self, make_watch: Callable[[Path], Watch], prepare: Callable[[], object] | None) -> Life:
        self.notes.touch()
        self.exit_code = forks.run(lambda: self._live(make_watch, prepare))
        return self

    def _live(self, make_watch: Callable[[Path], Watch], prepare: Callable[[], object] | None) -> None:
        if prepare is not None:
            prepare()
        watch = make_watch(self.folder)
        watch_disk(self.store, watch)
        notes = Notes(self.notes)
        before = _open_files()
        live(self.store, notes)
        assert _open_files() == before, "the store leaves files open"
        self.said.write_text("\n".join(watch.told()))

    def told(self) -> list[str]:
        """Return what the watch had to tell in the end."""
        return self.said.read_text().split("\n")


def calls_of_a_life() -> list[str]:
    """Return every call of one life that nobody disturbs, by its name and number."""
    with life(lambda folder: Recorder()) as seen:
        assert seen.exit_code == 0
        return seen.told()


def some(points: list[str], each: int) -> list[str]:
    """Return so many calls of every name in the short form, else all of them."""
    by_name = defaultdict(list)
    for point in points:
        by_name[point.partition(":")[0]].append(point)
    found = []
    for name, of_name in by_name.items():
        limit = SOME_FOLDERS if name.endswith(".mkdir") else len(of_name) if IS_FULL else each
        step = max(1.0, (len(of_name) - 1) / max(1, limit - 1))
        found += [of_name[round(number * step)] for number in range(min(limit, len(of_name)))]
    return found


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
