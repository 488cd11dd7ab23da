"""The folders of this host that a container gets: looked at, and made where they are not there yet.

Links are followed before anything is permitted, and what was permitted is what is given, not the name that led to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harmonicio.control.members import Family
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.containers.permits import check_folders

#: Each tells from the options of the engine plugin of its name which folders that writes to.
PLUGIN_FOLDERS = Family(
    "table of a plugin's folders",
    "harmonicio.plugin_folders",
    {"haste": "harmonicio.haste.folders:needed"},
    extra="haste",
)


@dataclass(frozen=True, slots=True)
class HostFolders:
    """Absolute paths, to write and to read only."""

    writable: tuple[str, ...]
    readable: tuple[str, ...]


def host_folders(
    declaration: StreamDeclaration, settings: DockerSettings, engine_socket: str, owner: tuple[int, int]
) -> HostFolders:
    """Return the folders that a declaration names, ready for use.

    Args:
        engine_socket: Of the Docker engine; empty when it has none on this host.
        owner: To whom folders belong that are made here.

    Raises:
        NotAllowed: one of them may not be given.
        InvalidInput: one to read from is not there.
        StorageError: one to write to cannot be made.
    """
    writable = tuple(dict.fromkeys((*declaration.container.folders, *_of_plugins(declaration))))
    readable = declaration.container.reference_folders
    for path in (*writable, *readable):
        if os.path.realpath(path) != os.path.normpath(path):
            raise InvalidInput(
                f"The folder {path} is a link, or leads over one, to {os.path.realpath(path)}.",
                hint="Declare where it really is, so that it is the same inside the container.",
            )
    socket = Path(os.path.realpath(engine_socket)) if engine_socket else None
    check_folders(map(Path, (*writable, *readable)), socket, settings)
    for path in readable:
        if not os.path.isdir(path):
            raise InvalidInput(f"There is no folder {path} on this worker's host.")
    for path in writable:
        _make(Path(path), owner)
    return HostFolders(tuple(map(os.path.normpath, writable)), tuple(map(os.path.normpath, readable)))


def _of_plugins(declaration: StreamDeclaration) -> Iterable[str]:
    known = PLUGIN_FOLDERS.names()
    for name, options in declaration.plugins.items():
        if name in known:
            yield from PLUGIN_FOLDERS.load(name)(options)


def _make(path: Path, owner: tuple[int, int]) -> None:
    """Make a folder that is not there, for whom the engines run as."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        if owner[0] != os.geteuid():
            os.chown(path, *owner)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be made for the engines: {error.strerror or error}.",
            hint="Make it, writable for the user that engines run as (docker.user).",
        ) from error
