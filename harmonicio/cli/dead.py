"""``harmonicio dead …``: messages that were given up, kept until somebody replays or purges them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import typer

from harmonicio.cli import console, invocation, readiness
from harmonicio.control.backlog_messages import (
    MAX_NAMED,
    MAX_PAGE,
    DeadChange,
    DeadChoice,
    DeadLetterView,
)
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import HarmonicIOError, InvalidInput, NotFound
from harmonicio.core.printable import one_line
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)

STREAM = typer.Argument(help="The stream's name.", callback=invocation.stream_name)
MESSAGES = typer.Argument(None, metavar="[MESSAGE]...", help="Ids of messages; see: harmonicio dead ls STREAM")
ERROR = typer.Option("", "--error", help="All that died of this type of error, like ValueError.")
ALL = typer.Option(False, "--all", help="All dead letters of the stream.")
SHOWN_TEXT_LENGTH = 100


@app.command("ls")
def list_all(
    context: typer.Context,
    stream: str | None = typer.Argument(None, help="Only this stream.", callback=invocation.stream_name),
    error_type: str = typer.Option("", "--error", help="Only those that died of this type of error."),
    limit: int = typer.Option(100, min=1, help="So many, the earliest first."),
    as_json: bool = console.AS_JSON,
) -> None:
    """List dead letters: which messages were given up, when and why."""
    with invocation.of(context).master(invocation.READING_LOGS) as master:
        names = [stream] if stream else [each.stream for each in master.backlog() if each.dead]
        letters: list[DeadLetterView] = []
        total = 0
        for name in names:
            found, count = _letters(master, name, error_type, limit - len(letters))
            letters += found
            total += count
    if as_json:
        console.show_json(letters)
    else:
        _show_all(letters, total, stream, error_type)


def _letters(master: MasterClient, stream: str, error_type: str, limit: int) -> tuple[list[DeadLetterView], int]:
    """Return the first dead letters of a stream, and how many it has."""
    letters: list[DeadLetterView] = []
    after = ""
    while True:
        missing = max(1, min(limit - len(letters), MAX_PAGE))
        page = master.dead_letters(
            stream, after=after, limit=MAX_PAGE if error_type else missing, error_type=error_type
        )
        letters += page.letters
        after = page.next
        if not after or len(letters) >= limit:
            return letters[: max(0, limit)], page.total


@app.command("show")
def show(
    context: typer.Context,
    stream: str = STREAM,
    message: str = typer.Argument(help="The message's id."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Show why one message was given up, with the traceback."""
    with invocation.of(context).master(invocation.READING_LOGS) as master:
        letter = master.dead_letter(stream, message)
    if as_json:
        console.show_json(letter)
        return
    console.say(f"Message {letter.message} of stream {stream!r}: {letter.error_type}")
    for line in (letter.text, letter.traceback):
        if line:
            console.show_text(line.rstrip("\n") + "\n")
    died = f"{_time(letter.died_at)}, {console.duration(letter.dead_for_s)} ago" if letter.died_at else ""
    rows = [
        ("died", died),
        ("stored", _time(letter.stored_at)),
        ("attempts", str(letter.attempts)),
        ("crashes", str(letter.crashes)),
        ("size", format_size(letter.size_bytes)),
        ("priority", str(letter.priority)),
        ("last engine", letter.engine),
        ("its image", letter.image),
        ("stream version", str(letter.stream_version or "")),
    ]
    console.show_table(("of the message", ""), [row for row in rows if row[1]])


@app.command("replay")
def replay(
    context: typer.Context,
    stream: str = STREAM,
    messages: list[str] = MESSAGES,
    error_type: str = ERROR,
    is_all: bool = ALL,
) -> None:
    """Let dead letters be processed again, as if they had never been tried. Mend what failed before."""
    choices = _choices(messages, error_type, is_all)
    with invocation.of(context).master(invocation.CHANGING) as master:
        count, missing = _carry_out(master.replay_dead, stream, choices)
        if count:
            waiting = f"{console.count(count, 'message')} of stream {stream!r} wait{'s' if count == 1 else ''} again."
            console.say(waiting)
            console.say(
                f"{_who_processes(master, stream)} If you have edited it since: harmonicio stream restart {stream}"
            )
    if not count and not missing:
        _say_none(stream)
    _raise_for(stream, missing)


def _who_processes(master: MasterClient, stream: str) -> str:
    """Say which versions of a stream take what waits; where that cannot be asked, the letters wait all the same."""
    try:
        version = master.stream(stream).declaration.version
        old = readiness.earlier_engines(master, stream, version).taking
    except HarmonicIOError as error:
        return f"Which version of the stream processes them is not known just now: {error.text}"
    earlier = f", and an earlier one on {console.count(old, 'engine')}" if old else ""
    return f"Version {version} of the stream processes them{earlier}, as its engines have loaded it."


@app.command("purge")
def purge(
    context: typer.Context,
    stream: str = STREAM,
    messages: list[str] = MESSAGES,
    error_type: str = ERROR,
    is_all: bool = ALL,
    is_sure: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Delete dead letters with their payloads; they are lost."""
    choices = _choices(messages, error_type, is_all)
    with invocation.of(context).master(invocation.CHANGING) as master:
        if not is_sure:
            which = _which(master, stream, messages, error_type)
            if not which:
                _say_none(stream)
                return
            _confirm(f"Delete {which} of stream {stream!r}? They cannot be brought back.")
        count, missing = _carry_out(master.purge_dead, stream, choices)
    if count:
        console.say(f"{console.count(count, 'dead letter')} of stream {stream!r} deleted.")
    elif not missing:
        _say_none(stream)
    _raise_for(stream, missing)


def _choices(messages: Sequence[str] | None, error_type: str, is_all: bool) -> list[DeadChoice]:
    """Return what is asked of the master.

    Raises:
        InvalidInput: not exactly one way to choose is used.
    """
    named = list(dict.fromkeys(messages or ()))
    if (bool(named), bool(error_type), is_all).count(True) != 1:
        raise InvalidInput(
            "Which dead letters are meant?", hint="Name messages, or use --error TYPE, or --all: one of these."
        )
    if not named:
        return [DeadChoice(error_type=error_type, all=is_all)]
    return [DeadChoice(tuple(named[at : at + MAX_NAMED])) for at in range(0, len(named), MAX_NAMED)]


def _carry_out(
    step: Callable[[str, DeadChoice], DeadChange], stream: str, choices: Sequence[DeadChoice]
) -> tuple[int, list[str]]:
    """Change all that is chosen, step by step; return how many it was, and what was named and is not there."""
    changes = list(_steps(step, stream, choices))
    return sum(each.changed for each in changes), [message for each in changes for message in each.missing]


def _steps(
    step: Callable[[str, DeadChoice], DeadChange], stream: str, choices: Sequence[DeadChoice]
) -> Iterator[DeadChange]:
    for choice in choices:
        change = step(stream, choice)
        yield change
        while change.next:
            change = step(stream, replace(choice, after=change.next))
            yield change


def _say_none(stream: str) -> None:
    console.say(f"Stream {stream!r} has no such dead letters.")


def _raise_for(stream: str, missing: Sequence[str]) -> None:
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise NotFound(
            f"These are no dead letters of stream {stream!r}: {shown}.",
            hint=f"List them with: harmonicio dead ls {stream}",
        )


def _which(master: MasterClient, stream: str, messages: Sequence[str] | None, error_type: str) -> str:
    """Return in words what is about to be deleted; empty where there is nothing."""
    if messages:
        return console.count(len(dict.fromkeys(messages)), "dead letter")
    total = master.dead_letters(stream, limit=1).total
    if not total:
        return ""
    if error_type:
        return f"every dead letter with {error_type}, out of {total:,},"
    return f"all {console.count(total, 'dead letter')}"


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("Nobody can be asked whether to delete them.", hint="Add --yes to delete them without that.")
    typer.confirm(question, abort=True)


def _show_all(letters: Sequence[DeadLetterView], total: int, stream: str | None, error_type: str) -> None:
    where = f"Stream {stream!r} has" if stream else "There are"
    console.show_table(
        ("message", "stream", "died", "why", "attempts", "crashes", "size", "last engine"),
        [_row(each) for each in letters],
        empty=f"{where} no dead letters{f' with {error_type}' if error_type else ''}.",
    )
    if not letters:
        return
    if total > len(letters) and not error_type:
        console.say(f"{total - len(letters):,} more; show them with: --limit {total}")
    name = stream or letters[0].stream
    console.say(
        f"Why one died: harmonicio dead show {name} MESSAGE. Once that is mended: harmonicio dead replay {name} --all"
    )


def _row(each: DeadLetterView) -> tuple[console.Cell, ...]:
    why = one_line(f"{each.error_type}: {each.text}")
    why = why if len(why) <= SHOWN_TEXT_LENGTH else why[: SHOWN_TEXT_LENGTH - 1] + "…"
    died = f"{console.duration(each.dead_for_s)} ago" if each.died_at else ""
    size = format_size(each.size_bytes)
    return (each.message, each.stream, died, why, each.attempts, each.crashes, size, each.engine)


def _time(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall).astimezone():%Y-%m-%d %H:%M:%S %Z}"
