"""A progress bar on standard error: rich's where it is installed, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

PLAIN_EVERY_S = 2.0


class Progress:
    """Counts what was done, as a context manager.

    Args:
        what: What is counted: "sent", "processed" …
        total: How many there will be; None when nobody knows.
        is_shown: Nothing is printed otherwise.
    """

    def __init__(self, what: str, total: int | None, *, is_shown: bool = True) -> None:
        self._what = what
        self._total = total
        self._is_shown = is_shown
        self._done = 0
        self._bar: Any = None
        self._task: Any = None
        self._print_at = 0.0
        self._printed = ""

    def __repr__(self) -> str:
        return f"<Progress {self._done} of {self._total or 'unknown'} {self._what}>"

    def __enter__(self) -> Self:
        if self._is_shown:
            self._bar = _rich_bar()
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def advance(self, count: int = 1) -> None:
        """Say that so many more are done."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """Say how many are done in all."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif self._is_shown and time.monotonic() >= self._print_at:
            self._print_at = time.monotonic() + PLAIN_EVERY_S
            self._print()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._is_shown:
            self._print()

    def _print(self) -> None:
        of = f" of {self._total}" if self._total is not None else ""
        line = f"{self._done}{of} {self._what}\n"
        if line != self._printed:
            sys.stderr.write(line)
        self._printed = line


def _rich_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    return Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
