"""What people and programs see: tables and lines on standard output, or JSON.

Names and texts may come from elsewhere, so nothing but printable text reaches the terminal and nothing is taken for
markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harmonicio.control.json_codec import as_plain
from harmonicio.core.printable import printable, printable_lines

#: For commands whose answer a program reads.
AS_JSON = typer.Option(False, "--json", help="Print JSON for programs.")
#: A table that goes into a file or a pipe is not folded to the width of a terminal.
PIPE_WIDTH = 10_000

Cell = str | int | float | None


def say(text: str) -> None:
    """Print one line for people."""
    print(printable(text))


def show_text(text: str) -> None:
    """Print a text of several lines as it is, also when the last one has no end yet."""
    print(printable_lines(text), end="", flush=True)


def show_json(record: Any) -> None:
    """Print a record, or several, as indented JSON."""
    print(json.dumps(as_plain(record), indent=2, default=str))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", empty: str = "") -> None:
    """Print rows under their columns, numbers to the right; without rows the line ``empty``."""
    cells = [list(row) for row in rows]
    if cells:
        _console().print(_table(columns, cells, title))
    elif empty:
        say(empty)


class Refreshed:
    """A table that is kept up to date on a terminal, as a context; elsewhere one line for each row each time."""

    def __init__(self) -> None:
        console = _console()
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None

    def __repr__(self) -> str:
        return f"<Refreshed on a {'terminal' if self._live else 'pipe'}>"

    def __enter__(self) -> Refreshed:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str) -> None:
        """Show the rows as they are now."""
        cells = [list(row) for row in rows]
        if self._live is not None:
            self._live.update(_table(columns, cells, title), refresh=True)
            return
        for row in cells:
            named = (f"{column} {_shown(cell)}" for column, cell in zip(columns, row, strict=True) if cell != "")
            print(f"{title}  {', '.join(named)}", flush=True)


def _table(columns: Sequence[str], cells: Sequence[Sequence[Cell]], title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for at, column in enumerate(columns):
        is_number = all(isinstance(row[at], (int, float)) for row in cells)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    return table


def count(number: int, noun: str) -> str:
    """Return ``"1 engine"``, ``"2 engines"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration as people say it, with its two largest units: ``"2 h 5 min"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts[:2])


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return f"{cell:.3g}" if isinstance(cell, float) else printable(str(cell))


def _console() -> Console:
    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
