"""The table of commands, and the application built from it.

Only the module of the command that runs is imported, so that help is quick and a missing extra hurts nobody who does
not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import typer

import harmonicio
from harmonicio.cli.invocation import Invocation


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: ``is_noun`` tells a noun with verbs from a bare verb."""

    name: str
    help: str
    is_noun: bool = False

    @property
    def module(self) -> str:
        return f"harmonicio.cli.{self.name}"


COMMANDS = (
    Command("up", "Start a whole cluster on this machine."),
    Command("demo", "Sort real micrographs by focus, from end to end."),
    Command("send", "Send files to a stream."),
    Command("status", "Show the whole cluster: workers, engines, streams and what waits."),
    Command("master", "Run the master of a cluster.", is_noun=True),
    Command("stream", "Declare, list, scale and remove streams.", is_noun=True),
    Command("worker", "Run this host's controller, and list the hosts that run engines.", is_noun=True),
    Command("engine", "Run and list processing engines, and read their logs.", is_noun=True),
    Command("image", "Build, check and list images of engines.", is_noun=True),
    Command("backlog", "Look at the messages that wait at the master, and put them in another order.", is_noun=True),
    Command("dead", "List, show, replay and purge messages that were given up.", is_noun=True),
    Command("token", "Make, list and revoke bearer tokens.", is_noun=True),
    Command("audit", "Show who changed what, and whether the records are as they were written.", is_noun=True),
    Command("certs", "Make certificates for the hosts of a cluster.", is_noun=True),
    Command("haste", "Look after what HASTE keeps.", is_noun=True),
    Command("report", "Write what was found interesting as CSV and HTML."),
    Command("config", "Show every setting with its value and origin."),
    Command("version", "Show the version."),
)


def build(arguments: Sequence[str]) -> typer.Typer:
    """Return the application, with the commands that ``arguments`` name loaded and a line of help for all others."""
    root = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    root.callback(help="Large scientific messages, straight from the instrument to the code that processes them.")(
        _options
    )
    for command in COMMANDS:
        if command.name not in arguments:
            root.command(command.name, help=command.help)(_not_loaded)
        elif command.is_noun:
            root.add_typer(import_module(command.module).app, name=command.name, help=command.help)
        else:
            root.command(command.name, help=command.help)(import_module(command.module).run)
    return root


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"harmonicio {harmonicio.__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    settings: Path | None = typer.Option(
        None, help="Settings file; by default ./harmonicio.toml, else ~/.harmonicio/harmonicio.toml."
    ),
    master: str | None = typer.Option(None, help="Address of the master, like http://127.0.0.1:8710."),
    token_file: Path | None = typer.Option(None, help="File (mode 0600) that holds the bearer token."),
    is_version_wanted: bool = typer.Option(
        False, "--version", help="Show the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    context.obj = Invocation(settings, {"master.url": master, "client.token_file": token_file})


def _not_loaded() -> None:
    """Stands in the help for a command that is not the one that runs."""
