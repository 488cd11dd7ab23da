"""What the options before the command say, shared by all commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from harmonicio.control.client import MasterClient
from harmonicio.control.settings_files import TlsFiles, load_settings, read_token
from harmonicio.core.errors import InvalidInput, NotAllowed
from harmonicio.core.names import check_name
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.transport.credentials import TlsCredentials

#: Whose token a command tries, in this order: to look, to see messages, to read logs, and to change something.
LOOKING = (Role.ADMIN, Role.VIEWER, Role.SOURCE, Role.WORKER)
READING_MESSAGES = (Role.ADMIN, Role.VIEWER, Role.SOURCE)
READING_LOGS = (Role.ADMIN, Role.VIEWER)
CHANGING = (Role.ADMIN,)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of the command line: the settings file and the flags that were given."""

    settings_file: Path | None
    flags: Mapping[str, Any]

    def settings(self, flags: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings, with the flags of the command itself on top."""
        return load_settings(self.settings_file, flags={**self.flags, **(flags or {})})

    def master(self, roles: tuple[Role, ...] = LOOKING) -> MasterClient:
        """Return a client of the master, with the first token of these roles that this host has."""
        settings = self.settings()
        tls = TlsCredentials(TlsFiles(settings.tls).read)
        return MasterClient(settings.master.url, bearer_token(settings, roles), tls=tls)


def bearer_token(settings: Settings, roles: tuple[Role, ...]) -> str:
    """Return the first token of these roles that this host has.

    Raises:
        NotAllowed: there is none; says how to come by one.
    """
    try:
        return read_token(settings, roles)
    except NotAllowed as error:
        raise NotAllowed(error.text, hint=f"Start a cluster on this machine: harmonicio up. Or: {error.hint}") from None


def stream_name(name: str | None) -> str | None:
    """Return the name of a stream that was given, if any; it becomes part of a URL."""
    return None if name is None else check_name("stream", name)


def engine_name(name: str) -> str:
    """Return the id of an engine that was given; it becomes part of a URL."""
    return check_name("engine", name)


def token_name(name: str) -> str:
    """Return the name of a token that was given; it becomes part of a URL."""
    return check_name("token", name)


def handler_file(path: Path, *, or_else: str = "") -> Path:
    """Return the absolute path of a file that may hold a handler.

    Raises:
        InvalidInput: it cannot be one; ``or_else`` is what could be given as well.
    """
    hint = f"Give a handler (FILE.py){or_else}."
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder.", hint=f"Name its file, like {path / 'engine.py'}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", hint=hint)
    if path.suffix != ".py":
        raise InvalidInput(f"{path} is not a Python file.", hint=hint)
    return path.resolve()


def of(context: typer.Context) -> Invocation:
    """Return the invocation that this command belongs to."""
    invocation: Invocation = context.find_object(Invocation) or Invocation(None, {})
    return invocation
