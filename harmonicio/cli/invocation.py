"""What the options before the command say, shared by all commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from harmonicio.control.client import MasterClient
from harmonicio.control.settings_files import load_settings, read_token
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings

#: Whose token a command tries, in this order: to look, and to change something.
LOOKING = (Role.ADMIN, Role.VIEWER, Role.SOURCE, Role.WORKER)
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
        return MasterClient(settings.master.url, read_token(settings, roles))


def of(context: typer.Context) -> Invocation:
    """Return the invocation that this command belongs to."""
    invocation: Invocation = context.find_object(Invocation) or Invocation(None, {})
    return invocation
